"""Binary layouts of Xen's and Linux's public headers, one module a header; sizes and offsets are tested."""
