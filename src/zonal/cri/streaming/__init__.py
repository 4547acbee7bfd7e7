"""The streaming server: what a kubelet or crictl carries exec, attach and port-forward through.

See docs/streaming-cri.md.
"""
