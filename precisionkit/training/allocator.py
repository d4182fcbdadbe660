"""glibc's allocator, told to keep freed memory: training allocates the same large blocks in every step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Let the process reuse blocks of up to 1 GiB, instead of returning their pages and faulting them in again; of glibc alone."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_MMAP_THRESHOLD, _KEPT)
        mallopt(_TRIM_THRESHOLD, 2 * _KEPT - 1)
