"""Setting up a Kubernetes node: the files by which a kubelet finds Zonal, and taking them back."""
