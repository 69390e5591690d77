"""Progress of the preparation on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

from metronorm.text import hours_minutes, percent, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BAR_AFTER_SECONDS = 1
_BAR_EVERY_SECONDS = 1
_LINE_EVERY_SECONDS = 10
_LAST_LINE_AFTER_SECONDS = 2  # a quicker pass prints nothing
_USUAL_COLUMNS = 80


@contextmanager
def progress(
    what: str, total_bytes: int, *, now: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], object]]:
    """Show how far a pass over the text is.

    A terminal shows a bar, once the pass has taken a second. Elsewhere a line comes every ten
    seconds, and a last one at the end of a pass of at least two seconds.

    Args:
        what: the work, as it is shown ("writing train.bin").
        total_bytes: size of the text.
        now: clock in seconds.

    Yields:
        A function to call with the number of bytes that were done since its last call.
    """
    if sys.stderr.isatty():
        with tqdm(
            total=total_bytes,
            desc=what,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            delay=_BAR_AFTER_SECONDS,
            leave=False,
            ncols=_columns(),
        ) as bar:
            yield bar.update
        return
    start = last_line = now()
    done = shown = 0

    def write_line() -> None:
        nonlocal shown, last_line
        shown, last_line = done, now()
        _write_line(f"{what}: {percent(done / max(total_bytes, 1))} of {size(total_bytes)}")

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if now() - last_line >= _LINE_EVERY_SECONDS:
            write_line()

    yield advance
    if done > shown and now() - start >= _LAST_LINE_AFTER_SECONDS:
        write_line()


@contextmanager
def waiting(
    what: str,
    *,
    every_seconds: float | None = None,
    write_line: Callable[[str], object] | None = None,
) -> Iterator[None]:
    """Show how long some work has taken so far, where its progress is unknown.

    A terminal shows one line that changes every second; elsewhere a line comes every ten seconds.

    Args:
        what: the work, as it is shown ("learning 4,096 tokens").
        every_seconds: time between two lines; None: as above.
        write_line: takes a line; None: stderr.
    """
    if write_line is None and sys.stderr.isatty():
        with (
            tqdm(bar_format="{desc}", leave=False, ncols=_columns()) as bar,
            waiting(
                what,
                every_seconds=every_seconds or _BAR_EVERY_SECONDS,
                write_line=bar.set_description_str,
            ),
        ):
            yield
        return
    start = time.monotonic()
    done = threading.Event()

    def report() -> None:
        while not done.wait(every_seconds or _LINE_EVERY_SECONDS):
            (write_line or _write_line)(f"{what}: {hours_minutes(time.monotonic() - start)}")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _columns() -> int | None:
    """The width of a bar; None: tqdm takes that of the terminal.

    Some terminals report a width of 0, as those of containers do; tqdm would draw nothing.
    """
    try:
        unknown = not os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return None
    return _USUAL_COLUMNS if unknown else None


def _write_line(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
