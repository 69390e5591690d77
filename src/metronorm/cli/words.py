"""Numbers and foreign text as people read them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def milliseconds(ns: float | None) -> str:
    """`50.1 ms`; nothing for None."""
    return "" if ns is None else f"{ns / 1e6:,.3g} ms" if ns < 1e8 else f"{ns / 1e6:,.0f} ms"


def mebibytes(size: float | None) -> str:
    """`530 MiB`; nothing for None."""
    return "" if size is None else f"{size / 2**20:,.0f} MiB"


def printable(text: str) -> str:
    """What a run holds may be any text: line breaks are kept, what steers a terminal is not."""
    return "".join(sign if sign.isprintable() or sign == "\n" else REPLACEMENT for sign in text)


def tell(notices: Iterable[str]) -> None:
    """What was left out of a run that was read, on standard error."""
    for notice in notices:
        print(printable(notice), file=sys.stderr)
