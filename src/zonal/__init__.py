"""Zonal: containers and Kubernetes pods in Xen zones, each with a Linux kernel of its own."""

__version__ = "0.1.0"
