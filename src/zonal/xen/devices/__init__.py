"""Paravirtual devices: what to write into the store for each, and how to wait for them and take them away."""
