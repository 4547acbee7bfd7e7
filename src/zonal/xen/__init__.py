"""The Xen hypervisor, and nothing about containers; usable as a library by itself.

A ladder, each step usable alone: ``hypercall`` (privcmd) → ``domctl``, ``memory``, ``events``, ``grants``, ``store`` →
``ring``, ``channel``, ``console`` → ``build`` (kernel image, page tables, start info) → ``devices`` → ``domain``.
"""
