"""The control API: its protocol buffers, and the stubs generated from them at build time."""
