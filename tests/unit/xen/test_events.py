"""Event channels: request numbers against Linux's header."""

from __future__ import annotations

from tests.unit.xen.c_layout import c_struct, c_values
from zonal.xen import events

# evtchn.h names domid_t without saying what it is; xen.h does.
_HEADERS = ["xen/xen.h", "xen/evtchn.h"]


def test_requests_are_those_of_the_header() -> None:
    ours = {
        "IOCTL_EVTCHN_BIND_VIRQ": events.BIND_VIRQ,
        "IOCTL_EVTCHN_BIND_INTERDOMAIN": events.BIND_INTERDOMAIN,
        "IOCTL_EVTCHN_BIND_UNBOUND_PORT": events.BIND_UNBOUND_PORT,
        "IOCTL_EVTCHN_UNBIND": events.UNBIND,
        "IOCTL_EVTCHN_NOTIFY": events.NOTIFY,
        "IOCTL_EVTCHN_RESET": events.RESET,
        "VIRQ_DOM_EXC": events.VIRQ_DOM_EXC,
    }
    assert ours == c_values(_HEADERS, list(ours))


def test_the_interdomain_request_is_domain_then_port() -> None:
    fields = ["remote_domain", "remote_port"]
    size, offsets = c_struct(_HEADERS, "struct ioctl_evtchn_bind_interdomain", fields)
    assert (size, list(offsets.values())) == (8, [0, 4])
