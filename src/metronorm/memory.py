"""Memory of this machine: how much is free, what to say when it runs out. No framework."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import TYPE_CHECKING

from metronorm.cgroup import bytes_left
from metronorm.errors import MetronormError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALLER_BATCH = "a smaller --batch-size with more --micro-batches, which gives the same update"


def available_bytes() -> int | None:
    """Bytes of memory that are free for this process; None where nobody says it (not Linux).

    What the machine has, or what the limit of a container leaves (`metronorm.cgroup`) if less.
    """
    try:
        with open("/proc/meminfo") as file:
            found = dict(line.split(":") for line in file)
        free = int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    left = bytes_left()
    return free if left is None else min(free, left)


def resident_bytes() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def peak_bytes() -> int:
    """The most bytes of memory that this process has held, since its program began.

    Linux counts into `ru_maxrss` also what the process that started it held at that moment.
    """
    try:
        with open("/proc/self/status") as file:
            (peak,) = (line.split()[1] for line in file if line.startswith("VmHWM:"))
        return int(peak) * 1024
    except (OSError, ValueError):
        pass
    kib = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kib


@contextlib.contextmanager
def explaining_out_of_memory(*, resume: bool) -> Iterator[None]:
    """Turn an error of torch, NumPy or Python that memory ran out into one that says what to try.

    Args:
        resume: a run goes on, which refuses another batch size: a new run is advised.

    Raises:
        OutOfMemoryError: instead of that error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) and error.is_told:
            raise
        if not isinstance(error, OutOfMemoryError) and (
            isinstance(error, MetronormError) or not is_out_of_memory(error)
        ):
            raise
        known = error if isinstance(error, OutOfMemoryError) and error.got else None
        fix = known.fix if known and known.fix else SMALLER_BATCH
        raise OutOfMemoryError(
            known.must if known else "a training must fit into memory",
            got=known.got if known else str(error).partition("\n")[0],
            fix=f"free memory on this machine, or start a new run with {fix}" if resume else fix,
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, NumPy or Python says that memory ran out."""
    torch = sys.modules.get("torch")
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
