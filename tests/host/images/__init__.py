"""Images mounted by the host's kernel, as no zone's image ever is."""
