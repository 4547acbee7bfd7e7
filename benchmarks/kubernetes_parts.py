"""What both halves of ``make bench-kubernetes`` must know."""

PARTS = ("start", "many", "network", "web")
TOGETHER = 30
"""Pods that are started at once."""
