"""Kubernetes' Container Runtime Interface: a kubelet's or crictl's calls, answered with zones and their workloads."""
