"""`metronorm prepare --list` and `--clean`: what is in the cache of texts, and its removal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from metronorm.cli.console import Console
from metronorm.data.cached import list_cached, remove_cached
from metronorm.errors import ConfigError, DataError
from metronorm.text import counted, hours_minutes, printable, shortened, size

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metronorm.data.cached import Cached

_DAY_SECONDS = 86_400


def print_cached(folder: Path, *, now: float | None = None) -> list[Cached]:
    """Print the prepared texts in a folder: name, size, age since the last use, from what.

    Args:
        folder: of the cache.
        now: current time in seconds since the epoch; None: that of the clock.

    Returns:
        What was printed.
    """
    listed = list_cached(folder)
    if not listed:
        print(printable(f"no prepared texts in {folder}"))
        return listed
    now = time.time() if now is None else now
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("text", overflow="fold")
    for name in ("size", "tokens", "used"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from", overflow="fold")
    for one in listed:
        cells = (
            one.directory.name,
            size(one.disk_bytes),
            f"{one.tokens:,}",
            f"{_age(now - one.used)} ago",
            _sources(one.sources),
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console = Console()
    console.print(table)
    total = size(sum(one.disk_bytes for one in listed))
    console.print(Text(f"{counted(len(listed), 'text')}, {total}, in {folder}", "dim"))
    return listed


def clean(folder: Path, *, yes: bool) -> int:
    """Remove the prepared texts in a folder, if the user agrees; the exit code.

    Args:
        folder: of the cache.
        yes: the user has agreed.

    Raises:
        ConfigError: there is no terminal to ask at.
        DataError: a text cannot be removed.
    """
    listed = print_cached(folder)
    if not listed:
        return 0
    if not yes and not _agreed(listed):
        return 1
    try:
        remove_cached(listed)
    except OSError as error:
        raise DataError(
            "the cache must be writable", got=f"{error.filename}: {error.strerror}"
        ) from error
    print(f"removed: {counted(len(listed), 'text')}")
    return 0


def _agreed(listed: Sequence[Cached]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(
            "somebody must agree to a removal", got="no terminal to ask at", fix="--yes"
        )
    print("A run whose text has changed or is gone cannot be resumed without its tokens.")
    answer = input(f"Remove {counted(len(listed), 'text')}? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _age(seconds: float) -> str:
    if seconds >= 2 * _DAY_SECONDS:
        return f"{seconds / _DAY_SECONDS:.0f} days"
    return hours_minutes(max(seconds, 0.0))


def _sources(sources: Sequence[str]) -> str:
    more = f" and {len(sources) - 2:,} more" if len(sources) > 2 else ""
    return ", ".join(shortened(source, 60) for source in sources[:2]) + more
