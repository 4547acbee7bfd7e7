"""CRI's own validation suite, run against zonald in the lab."""
