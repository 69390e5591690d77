"""Memory of this process that it need not hold: freed blocks, and pages of mapped files.

Memory that malloc gives back after every use returns as fresh pages, each of which costs a fault.
With large activations these faults can cost more than the arithmetic. Only glibc has the switch.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, Literal

Allocator = Literal["system", "keep"]

# from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MADV_PAGEOUT = 21  # from Linux' mman-common.h; older kernels than 5.4 answer with an error
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


def page_out(address: int, size: int) -> None:
    """Let the system take back pages that this process will not need soon; Linux only.

    Nothing is lost: a page of a mapped file is read again when it is touched, any other page stays
    or goes to swap. Pages that are partly outside stay.

    Args:
        address: of the first byte.
        size: in bytes.
    """
    advise, page = _glibc("madvise"), os.sysconf("SC_PAGE_SIZE")
    begin, end = -(-address // page) * page, (address + size) // page * page
    if advise is not None and begin < end:
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_PAGEOUT)


def _glibc(name: str) -> Any:
    """A function of glibc; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
