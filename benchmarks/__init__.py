"""Benchmarks: what SPECIFICATION.md promises, measured. ``make bench`` runs them."""
