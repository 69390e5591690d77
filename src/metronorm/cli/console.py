"""Where the commands print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import rich.console

from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")


class Console(rich.console.Console):
    """Rich's console. If its output is closed, the command line decides what to do."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that Rich is handling, so that it reaches the caller."""
        raise


def print_notices(notices: Iterable[str]) -> None:
    """Print notices, such as what was left out of a run, on standard error, one per line."""
    for notice in notices:
        print(printable(notice), file=sys.stderr)


def cell(value: T | None, form: Callable[[T], str]) -> str:
    """The text of a table's cell: `form(value)`, or nothing for None."""
    return "" if value is None else form(value)
