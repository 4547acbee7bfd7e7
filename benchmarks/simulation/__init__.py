"""Zones beyond what a machine of ours could hold: the real zonald on a stand-in for Xen, with stand-in zones.

    client ──gRPC──▶ zonald ──hypercalls, grants, events──▶ machine
    (measures)       (real)  ──the store's protocol──────▶ (hypervisor, xenstored, zones)

zonald is a process of its own and runs its own code, from its gRPC server to the structures of its hypercalls; what
would be an ioctl of one of Xen's devices is a question to the machine's process instead (`doors`). That holds memory,
grants, event channels and the store (`machine`, `hypervisor`, `xenstore`), and in each domain the agent's own code for
protocol, rings and streams (`zone`). No kernel boots, no disk is read, and no zone has a network. Kubelets are
served as well (`pods`).
"""
