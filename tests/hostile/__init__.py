"""An agent that lies, for tests of what zonald makes of it: with a stand-in for Xen, and in real zones."""
