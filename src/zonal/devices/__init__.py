"""The machine's PCI devices: which there are, which can be given to zones, who has them."""
