"""zonald: wiring, the control API, state, events."""
