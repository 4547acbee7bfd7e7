"""Zones: specification, lifecycle, workloads; the host's side of the agent's protocol."""
