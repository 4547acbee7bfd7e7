"""Images made by the real mkfs.erofs and mounted by the host's kernel, as no zone's image ever is."""
