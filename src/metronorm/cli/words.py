"""Numbers as tables have them, and what is said beside a result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from metronorm.text import printable, short_time

if TYPE_CHECKING:
    from collections.abc import Iterable


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time(ns: float | None) -> str:
    """`50.1 ms`, in the unit that suits; nothing for None."""
    return "" if ns is None else short_time(ns)


def mebibytes(size: float | None) -> str:
    """`530 MiB`; nothing for None."""
    return "" if size is None else f"{size / 2**20:,.0f} MiB"


def tell(notices: Iterable[str]) -> None:
    """What was left out of a run that was read, on standard error."""
    for notice in notices:
        print(printable(notice), file=sys.stderr)
