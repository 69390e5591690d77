"""What the first look at runs reads from their Parquet parts, of many small runs in few queries.

What is not read here (large parts, what is damaged) is read by the series of the run.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from metronorm.board.opening import read_info
from metronorm.board.series.blocks import read_blocks
from metronorm.board.series.recorded_events import read_sealed
from metronorm.board.series.tapes import BASES
from metronorm.errors import MetronormError
from metronorm.store.parquet_parts import has_parquet_magic
from metronorm.store.run_directory import folder_number, tape_folders
from metronorm.store.unsealed_lines import sealed_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from metronorm.board.series.blocks import Block
    from metronorm.board.series.recorded_events import Row

MOST_BYTES = 1 << 20  # of the parts of a run; what takes long to decode gains nothing here


class Ahead(NamedTuple):
    """What was read of a run: of Parquet parts of ticks, and the rows of its events."""

    run: str
    ticks: dict[Path, Block]
    events: dict[Path, list[Row]]


def read_ahead(directories: Iterable[Path], names: Sequence[str]) -> dict[Path, Ahead]:
    """Read ticks, times and some columns of the first rank of runs, and their events.

    Args:
        directories: of the runs.
        names: of the columns.

    Returns:
        By directory; runs of which nothing can be read so are left out.

    Raises:
        OutOfMemoryError: reading them takes more memory than there is.
    """
    found: dict[Path, tuple[str, list[Path], list[Path]]] = {}
    for directory in directories:
        with contextlib.suppress(MetronormError, OSError):
            ticks, events = _parts(directory, "ticks"), _parts(directory, "events")
            if sum(part.stat().st_size for part in (*ticks, *events)) <= MOST_BYTES:
                found[directory] = read_info(directory).id, ticks, events
    lower = [name.lower() for name in names if name.lower() not in BASES["ticks"]]
    blocks = read_blocks(
        [part for _, ticks, _ in found.values() for part in ticks], "ticks", BASES["ticks"], lower
    )
    rows = read_sealed([part for _, _, events in found.values() for part in events])
    return {
        directory: Ahead(
            run,
            {part: block for part in ticks if (block := blocks[part])},
            {part: rows[part] for part in events},
        )
        for directory, (run, ticks, events) in found.items()
    }


def _parts(directory: Path, kind: str) -> list[Path]:
    folders = tape_folders(directory, kind)
    if kind == "ticks":
        first = min(map(folder_number, folders), default=0)
        folders = [folder for folder in folders if folder_number(folder) == first]
    parts = [part for folder in folders for part in sealed_parts(folder)]
    return [part for part in parts if has_parquet_magic(part)]
