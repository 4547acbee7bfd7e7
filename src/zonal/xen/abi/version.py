"""Numbers and sizes of Xen's ``public/version.h``."""

from __future__ import annotations

XENVER_VERSION = 0
XENVER_EXTRAVERSION = 1
XENVER_CAPABILITIES = 3

XEN_EXTRAVERSION_LEN = 16
XEN_CAPABILITIES_INFO_LEN = 1024
