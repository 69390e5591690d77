"""The rows of one tape as columns, which grow while it is written.

| a column of | is read | when |
| --- | --- | --- |
| Parquet parts | with DuckDB | somebody asks for it |
| unsealed lines | with all other columns: a line is read as a whole | at every look, what is new |

When a stretch is sealed, the parts hold what the lines held: the columns are read again.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.board.series._arrays import Floats, Growing, missing
from metronorm.board.series.cache import Cache
from metronorm.board.series.parts import Parts
from metronorm.runs.following.tail import Tail
from metronorm.store.run_directory import folder_number
from metronorm.store.schema import UNATTRIBUTED, ResourceRecord
from metronorm.store.unsealed_lines import DECODERS, read_tape, sealed_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from metronorm.board.series._arrays import Integers
    from metronorm.board.series.blocks import Block
    from metronorm.store.schema import StoredTick

# the columns that every row has: they are read at once; the first one numbers the rows
BASES = {"ticks": ("tick", "time_ns", "wall_ns"), "resources": ("time_ns", "tick")}
_UNATTRIBUTED_NS = f"{UNATTRIBUTED}_ns"


class Tape:
    """The ticks, or the samples of the machine, of one rank in one attempt, in order.

    `generation` changes when rows are no longer what they were, and `changes` counts by column how
    often single values were changed afterwards.

    Args:
        folder: the folder of the tape.
        identity: the `id` of the run.
        kind: "ticks" or "resources".
        cache: whether columns of many rows are kept in the directory of the run.
        ahead: parts that were read already.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        kind: str = "ticks",
        *,
        cache: bool = False,
        ahead: Mapping[Path, Block] | None = None,
    ) -> None:
        self.attempt, self.rank = folder_number(folder.parent), folder_number(folder)
        self.generation = 0
        self.changes: dict[str, int] = {}
        self._folder, self._identity, self._kind = folder, identity, kind
        self._key = BASES[kind][0]
        self._tail: Tail | None = None
        self._parts = Parts(kind, BASES[kind], Cache(folder) if cache else None, ahead)
        self._base = {name: Growing(np.empty(0, np.int64)) for name in BASES[kind]}
        self._columns: dict[str, Growing] = {}
        # by column: rows and values, of which a list would take four times as much
        self._lines: dict[str, tuple[array[int], array[float]]] = {}
        self._spelling: dict[str, str] = {}
        self._amendments: list[tuple[StoredTick, int]] = []  # each with the tick's own `wall_ns`
        self._waiting: dict[int, list[StoredTick]] = {}  # amendments of ticks that are to come

    def __len__(self) -> int:
        return len(self._base[self._key])

    @property
    def names(self) -> Iterable[str]:
        """The names of the columns that any row has, without the base columns."""
        return self._spelling.values()

    @property
    def nbytes(self) -> int:
        """About how many bytes the columns take, and the values of unsealed lines."""
        columns = sum(held.nbytes for held in (*self._base.values(), *self._columns.values()))
        return columns + 18 * sum(len(rows) for rows, _ in self._lines.values())

    @property
    def notices(self) -> list[str]:
        """One sentence for each part that could not be read."""
        return self._parts.notices

    def base(self, name: str) -> Integers:
        """One of the `BASES` of its kind."""
        return self._base[name].array

    def refresh(self) -> None:
        """Read what is new.

        Raises:
            RunError: a file may not be read.
        """
        if self._tail is not None and self._parts.paths == sealed_parts(self._folder):
            records = self._tail.read()
            if records is not None:
                self._add(records)
                return
        self._read_again()

    def _read_again(self) -> None:
        # the tail first: records that come meanwhile are then met twice, but not missed
        self._tail = Tail(self._folder, self._kind, self._identity)
        parts, lines = read_tape(self._folder, self._kind, self._identity)
        before = self._base[self._key].array
        rows = self._parts.read(parts)
        self._base = {name: Growing(column) for name, column in rows.items()}
        self._columns, self._lines = {}, {}
        for name in self._parts.names:
            self._spell(name)
        amendments, self._amendments = self._amendments, []
        decode = DECODERS[self._kind].decode
        self._add([decode(line) for line in lines.whole])
        for record, _ in amendments:
            self._amend(record)
        if not np.array_equal(self._base[self._key].array[: len(before)], before):
            self.generation += 1

    def _add(self, records: list[Any]) -> None:
        newest = int(self._base[self._key].array[-1]) if len(self) else -(2**63)
        new = []
        for record in records:
            number = getattr(record, self._key)
            if number > newest:  # else it was met before
                newest = number
                new.append(record)
        if not new:
            return
        for name, column in self._base.items():
            column.append(np.array([getattr(record, name) for record in new], np.int64))
        first = len(self) - len(new)
        for row, record in enumerate(new, first):
            for name, value in _values(record):
                rows, values = self._lines.setdefault(self._spell(name), (array("q"), array("d")))
                rows.append(row)
                values.append(value)
        for name, column in self._columns.items():
            column.append(self._of_lines(name, first))
        for record in new:
            for amendment in self._waiting.pop(record.tick, ()):
                self._amend(amendment)

    def _spell(self, name: str) -> str:
        """Names that differ in case only are one column, for all readers of a run."""
        return self._spelling.setdefault(name.lower(), name)

    def _of_lines(self, name: str, first: int) -> Floats:
        """A column of the rows from `first` on, which are all of unsealed lines."""
        column = missing(len(self) - first)
        if name not in self._lines:
            return column
        rows, values = self._lines[name]
        begin = len(rows)
        while begin and rows[begin - 1] >= first:
            begin -= 1
        column[np.array(rows[begin:], np.int64) - first] = values[begin:]
        return column

    def column(self, name: str) -> Floats:
        """A column by its name; `missing` where a row has none.

        Raises:
            OutOfMemoryError: reading it takes more memory than there is.
        """
        self.load([name])
        return self._columns[self._spelling.get(name.lower(), name)].array

    def load(self, names: Iterable[str]) -> None:
        """Read some columns at once, which is faster than one by one.

        Raises:
            OutOfMemoryError: reading them takes more memory than there is.
        """
        spelled = dict.fromkeys(self._spelling.get(name.lower(), name) for name in names)
        for name in spelled:  # those that were used last are at the end
            if name in self._columns:
                self._columns[name] = self._columns.pop(name)
        new = [name for name in spelled if name not in self._columns]
        for name, sealed in self._parts.columns(new).items():
            self._columns[name] = Growing(sealed)
            self._columns[name].append(self._of_lines(name, len(sealed)))
            for record, wall_ns in self._amendments:
                self._amend_column(name, record, wall_ns)

    @property
    def held(self) -> list[str]:
        """The columns in memory, the one that was not used for longest first."""
        return [*self._columns]

    def let_go(self, name: str) -> None:
        """Hold a column no more; it is read again when somebody asks for it."""
        self._columns.pop(name, None)

    # --- what was logged after a tick; see `metronorm.runs.amendments` --------------------------

    def amend(self, record: StoredTick) -> None:
        """Put values and phases that were logged after a tick into its row."""
        phases = [f"{name}_ns" for name in record.phases]
        for name in (*record.metrics, *phases, *([_UNATTRIBUTED_NS] if phases else [])):
            self._spell(name)
        self._amend(record)

    def _amend(self, record: StoredTick) -> None:
        row = self._row(record.tick)
        if row is None:
            self._waiting.setdefault(record.tick, []).append(record)
            return
        wall, time = self._base["wall_ns"], self._base["time_ns"]
        wall_ns, spent = int(wall.array[row]), sum(record.phases.values())
        self._amendments.append((record, wall_ns))
        for name in self._columns:
            self._amend_column(name, record, wall_ns)
        changed = {self._spell(name) for name in record.metrics}
        if spent > 0:
            wall.change(row, wall_ns + spent)
            time.change(row, max(int(time.array[row]), record.time_ns))
            changed |= {self._spell(name) for name, _ in _phases(record)}
            changed |= {"wall_ns", "time_ns", _UNATTRIBUTED_NS}
        for name in changed:
            self.changes[name] = self.changes.get(name, 0) + 1

    def _amend_column(self, name: str, record: StoredTick, wall_ns: int) -> None:
        row = self._row(record.tick)
        if row is None:
            return
        column = self._columns[name]
        before = float(column.array[row])
        for metric, value in record.metrics.items():
            if self._spell(metric) == name:
                column.change(row, float(value))
        for phase, spent in _phases(record):
            if self._spell(phase) == name:
                column.change(row, spent if np.isnan(before) else before + spent)
        if name == _UNATTRIBUTED_NS and record.phases and np.isnan(before):
            column.change(row, wall_ns)

    def _row(self, tick: int) -> int | None:
        ticks = self._base["tick"].array
        row = int(np.searchsorted(ticks, tick))
        return row if row < len(ticks) and ticks[row] == tick else None


def _phases(record: StoredTick) -> list[tuple[str, int]]:
    return [(f"{name}_ns", spent) for name, spent in record.phases.items() if spent]


def _values(record: Any) -> list[tuple[str, float]]:
    """The columns of a line, with their values; those of `BASES` are left out."""
    if isinstance(record, ResourceRecord):
        return list(record.values.items())
    found = [(f"{name}_ns", float(spent)) for name, spent in record.phases.items()]
    found += [(name, float(value)) for name, value in record.metrics.items()]
    found += [("beats", float(record.beats)), ("clock_ns", float(record.clock_ns))]
    for name in ("arrival_ns", "gc_ns"):
        value: Any = getattr(record, name)
        if value is not None:
            found.append((name, float(value)))
    return found
