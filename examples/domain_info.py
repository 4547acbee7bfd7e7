"""Shows what the hypervisor says of itself and of every domain, by hypercalls alone. Run as root in Xen's host."""

from __future__ import annotations

import uuid

from zonal.xen import domctl
from zonal.xen.hypercall import Hypervisor

SHUTDOWN_REASONS = {0: "powered off", 1: "rebooting", 2: "suspended", 3: "crashed", 4: "watchdog"}


def main() -> None:
    with Hypervisor() as hypervisor:
        physical = domctl.physical_info(hypervisor)
        print(f"Xen {domctl.xen_version(hypervisor)}: {domctl.xen_capabilities(hypervisor)}")
        print(f"{physical.cpus} CPUs, {physical.free_bytes >> 20} of {physical.total_bytes >> 20} MiB free")
        print(f"{'ID':>5} {'MEMORY':>9} {'VCPUS':>5} {'CPU':>9}  {'STATE':<12} UUID")
        for domain in domctl.list_domains(hypervisor):
            if domain.dying:
                state = "dying"
            elif domain.shutdown_reason is not None:
                state = SHUTDOWN_REASONS.get(domain.shutdown_reason, str(domain.shutdown_reason))
            else:
                state = "paused" if domain.paused else "alive"
            print(
                f"{domain.domain_id:>5} {domain.total_pages >> 8:>5} MiB {domain.online_vcpus:>5} "
                f"{domain.cpu_time_ns / 1e9:>7.1f} s  {state:<12} {uuid.UUID(bytes=domain.handle)}"
            )


if __name__ == "__main__":
    main()
