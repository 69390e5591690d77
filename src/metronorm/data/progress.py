"""How far a pass over the text is, on stderr."""

from __future__ import annotations

import sys
import threading
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
            _say(f"{what}: {done / max(total_bytes, 1):.0%} of {total_bytes / 1e6:,.1f} MB")

    yield advance


@contextmanager
def waiting(
    what: str,
    *,
    every_seconds: float = _EVERY_SECONDS,
    say: Callable[[str], object] | None = None,
) -> Iterator[None]:
    """A line every ten seconds while something lasts of which nobody knows how far it is.

    Args:
        what: is done ("learning 4,096 tokens").
        every_seconds: between two lines.
        say: takes a line; None: stderr.
    """
    begun = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        while not done.wait(every_seconds):
            (say or _say)(f"{what}: {time.monotonic() - begun:.0f} s")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
