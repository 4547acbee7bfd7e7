"""The CRI's messages and services, generated from Kubernetes' own ``runtime.proto`` (k8s.io/cri-api v0.37.2)."""
