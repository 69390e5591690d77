"""How far a pass over the text is, on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EVERY_SECONDS = 10
_BAR_AFTER_SECONDS = 1


@contextmanager
def progress(
    what: str, total_bytes: int, *, now: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal after a second; elsewhere a line every ten seconds.

    Args:
        what: is done ("writing train.bin").
        total_bytes: to go through.
        now: tells the time in seconds.

    Yields:
        A function to call with the bytes done since it was called last.
    """
    if sys.stderr.isatty():
        with tqdm(
            total=total_bytes,
            desc=what,
            unit="B",
            unit_scale=True,
            delay=_BAR_AFTER_SECONDS,
            leave=False,
        ) as bar:
            yield bar.update
        return
    done, last = 0, now()

    def advance(more: int) -> None:
        nonlocal done, last
        done += more
        if now() - last >= _EVERY_SECONDS:
            last = now()
            print(
                f"{what}: {done / max(total_bytes, 1):.0%} of {total_bytes / 1e6:,.1f} MB",
                file=sys.stderr,
                flush=True,
            )

    yield advance
