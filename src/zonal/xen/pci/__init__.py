"""PCI functions of the host: found in sysfs, taken from their drivers, granted to domains."""
