"""Building a paravirtualised domain: kernel image, page tables, start info."""
