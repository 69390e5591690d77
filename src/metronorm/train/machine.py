"""What this machine is good at, found by measuring the model itself: precision and allocator."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Precision = Literal["fp32", "bf16"]
Allocator = Literal["system", "keep"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30
_SYSTEM_BYTES = 32 << 20  # where glibc's own adaptation ends

_LEAST_TURNS, _MOST_TURNS = 3, 20
_ENOUGH_SECONDS, _LONG_SECONDS = 1.0, 10.0


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context a forward pass runs in; a context to enter as often as wanted."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def choose_precision(
    step: Callable[[Precision], None],
    device: torch.device,
    *,
    now: Callable[[], float] = time.perf_counter,
) -> Precision:
    """Fp32 or bf16, whichever runs `step(precision)`, one forward and backward pass, faster.

    On a processor both are timed, in turn; an accelerator that has bf16 is taken at its word.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    fp32, bf16 = _race(now, lambda: step("fp32"), lambda: step("bf16"))
    return "bf16" if bf16 < fp32 else "fp32"


def choose_allocator(
    step: Callable[[], None], *, now: Callable[[], float] = time.perf_counter
) -> Allocator:
    """Make the C allocator keep large blocks if `step()` runs faster that way.

    Memory that malloc returns to the system after every use comes back as fresh pages, each of
    which costs a fault; on large activations those can outweigh the arithmetic.
    """
    if not keep_large_blocks(True):
        return "system"
    keep_large_blocks(False)
    (before,) = _race(now, step)
    keep_large_blocks(True)
    (after,) = _race(now, step)
    if after < before:
        return "keep"
    keep_large_blocks(False)
    return "system"


def keep_large_blocks(keep: bool) -> bool:
    """Set from which size on malloc returns memory to the system; False where it is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    size = _KEEP_BYTES if keep else _SYSTEM_BYTES
    trim = min(2 * size, 2**31 - 1)  # a C int
    return bool(mallopt(_M_MMAP_THRESHOLD, size)) and bool(mallopt(_M_TRIM_THRESHOLD, trim))


@contextlib.contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Let steps be tried out: afterwards no gradient and no random number is missing."""
    with torch.random.fork_rng():
        yield
    model.zero_grad(set_to_none=True)


def _race(now: Callable[[], float], *steps: Callable[[], None]) -> list[float]:
    """Least seconds of each, run in turn: three to twenty times, one to ten seconds in all.

    The least, because whatever else the machine does only ever adds to it.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()  # the first time kernels are built and memory is fetched
    begun = now()
    for turn in range(_MOST_TURNS):
        for step, times in zip(steps, seconds, strict=True):
            begin = now()
            step()
            times.append(now() - begin)
        spent = now() - begun
        if spent > _LONG_SECONDS or (turn + 1 >= _LEAST_TURNS and spent > _ENOUGH_SECONDS):
            break
    return [min(times) for times in seconds]
