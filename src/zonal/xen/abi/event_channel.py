"""Layouts and numbers of Xen's ``public/event_channel.h`` that have no counterpart in Linux's evtchn device."""

from __future__ import annotations

import ctypes

EVTCHNOP_ALLOC_UNBOUND = 6


class EvtchnAllocUnbound(ctypes.Structure):
    """``struct evtchn_alloc_unbound``."""

    _fields_ = (("dom", ctypes.c_uint16), ("remote_dom", ctypes.c_uint16), ("port", ctypes.c_uint32))
