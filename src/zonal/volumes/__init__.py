"""Writable storage on the host's disk: named volumes, and the scratch disks of zones; both are sparse files with ext4.

A zone gets such a file as a block device. What is in it was written by the zone and is never mounted by the host.
"""
