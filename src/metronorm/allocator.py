"""The C allocator of this process: whether it keeps large blocks or gives them back to the system.

Memory that malloc gives back after every use returns as fresh pages, each of which costs a fault.
With large activations these faults can cost more than the arithmetic. Only glibc has the switch.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Literal

Allocator = Literal["system", "keep"]

# from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30
_SYSTEM_BYTES = 32 << 20  # glibc's own adaptation ends here


def keep_large_blocks(keep: bool) -> bool:
    """Set the size from which malloc gives memory back to the system.

    Args:
        keep: True keeps blocks of up to 1 GiB in the process; False is glibc's largest default.

    Returns:
        False where the allocator has no such switch: nothing has changed.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    size = _KEEP_BYTES if keep else _SYSTEM_BYTES
    trim = min(2 * size, 2**31 - 1)  # a C int
    return bool(mallopt(_M_MMAP_THRESHOLD, size)) and bool(mallopt(_M_TRIM_THRESHOLD, trim))


def give_back() -> None:
    """Give the system all memory that this process has freed and still holds; glibc only."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _glibc(name: str) -> Any:
    """A function of glibc; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
