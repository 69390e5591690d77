"""The Parquet parts of one tape as columns."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.board.series._arrays import joined, missing
from metronorm.board.series.blocks import plain, read_blocks
from metronorm.board.series.cache import LEAST_ROWS
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import batches, has_parquet_magic, out_of_memory, scan
from metronorm.store.sql_columns import identifier, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from metronorm.board.series._arrays import Floats, Integers
    from metronorm.board.series.blocks import Block
    from metronorm.board.series.cache import Cache

_MOST_AT_ONCE = 32  # columns in one query


class Parts:
    """The rows of all parts of a tape, one after another.

    Args:
        kind: of the tape: "ticks" or "resources".
        base: the columns that every row has, all of them integers. The first one numbers the rows.
        cache: where columns of many rows are kept; None: nowhere.
        ahead: parts that were read already.

    Attributes:
        paths: the parts, also those that cannot be read.
        notices: one sentence for each part that cannot be read.
    """

    def __init__(
        self,
        kind: str,
        base: Sequence[str],
        cache: Cache | None = None,
        ahead: Mapping[Path, Block] | None = None,
    ) -> None:
        self._kind, self._names, self._cache = kind, base, cache
        self._ahead = dict(ahead or {})
        self._given: dict[tuple[Path, str | None], Floats] = {}  # columns that came with a block
        self.paths: list[Path] = []
        self.notices: list[str] = []
        self._rows: list[tuple[Path, int]] = []  # the parts that can be read, with their rows
        self._columns: dict[Path, dict[str, str]] = {}  # of each: names by names in lower case
        self._base = {name: np.empty(0, np.int64) for name in base}
        self._order: Integers | None = None

    @property
    def names(self) -> list[str]:
        """The names of the columns, without the base columns."""
        found: dict[str, str] = {}
        for columns in self._columns.values():
            found = columns | found
        return [name for name in found.values() if name not in self._names]

    def read(self, paths: list[Path]) -> dict[str, Integers]:
        """Read the base columns of the parts; those that were read before are not read again.

        Raises:
            RunError: a file may not be read.
            OutOfMemoryError: reading them takes more memory than there is.
        """
        if paths[: len(self.paths)] != self.paths:
            self.__init__(self._kind, self._names, self._cache)  # type: ignore[misc]
        new = paths[len(self.paths) :]
        self.paths = list(paths)
        blocks = self._blocks([path for path in new if self._is_whole(path)])
        for path, block in blocks.items():
            self._rows.append((path, len(block.base[self._names[0]])))
            self._columns[path] = block.names
            self._given |= {(path, name): column for name, column in block.columns.items()}
        self._base = {
            name: joined(
                [self._base[name], *(block.base[name] for block in blocks.values())], np.int64
            )
            for name in self._names
        }
        key = self._base[self._names[0]]
        self._order = None if (key[1:] > key[:-1]).all() else np.argsort(key, kind="stable")
        return {name: self._sorted(column) for name, column in self._base.items()}

    def _sorted(self, column: Any) -> Any:
        return column if self._order is None else column[self._order]

    def _is_whole(self, path: Path) -> bool:
        whole = has_parquet_magic(path)
        if not whole:
            self._leave_out(path)
        return whole

    def _leave_out(self, path: Path) -> None:
        self.notices.append(f"{path}: a damaged part was left out")

    def _blocks(self, paths: list[Path]) -> dict[Path, Block]:
        if all(path in self._ahead for path in paths):
            found: dict[Path, Block | None] = {path: self._ahead.pop(path) for path in paths}
        else:
            found = read_blocks(paths, self._kind, self._names)
        for path, block in found.items():
            if block is None:
                self._leave_out(path)
        return {path: block for path, block in found.items() if block}

    def columns(self, names: Sequence[str]) -> dict[str, Floats]:
        """Some columns of all rows; `missing` where a part or a row has none.

        Raises:
            OutOfMemoryError: reading them takes more memory than there is.
        """
        found: dict[str, Floats] = {}
        count = sum(count for _, count in self._rows)
        if self._cache is None or count < LEAST_ROWS:
            for batch in batches(names, _MOST_AT_ONCE):
                found |= self._columns_of(batch, self._rows)
        else:
            parts, damaged = [path for path, _ in self._rows], len(self.notices)
            for name in names:
                begin, known = self._cache.load(name, parts, count) or (np.empty(0), 0)
                rest = self._columns_of([name], self._rows[known:])[name]
                found[name] = joined([begin, rest])
                if known < len(parts) and len(self.notices) == damaged:
                    self._cache.save(name, parts, found[name])
        return {name: self._sorted(column) for name, column in found.items()}

    def _columns_of(self, names: Sequence[str], rows: list[tuple[Path, int]]) -> dict[str, Floats]:
        """Some columns of some parts."""
        pieces: list[list[Floats]] = [[] for _ in names]

        def spelled(row: tuple[Path, int]) -> list[str | None]:
            return [self._columns[row[0]].get(name.lower()) for name in names]

        for spellings, group in groupby(rows, spelled):
            for piece, read in zip(pieces, self._read(spellings, list(group)), strict=True):
                piece += read
        return {name: joined(piece) for name, piece in zip(names, pieces, strict=True)}

    def _read(self, names: list[str | None], rows: list[tuple[Path, int]]) -> list[list[Floats]]:
        """The columns of some parts, each in pieces."""
        import duckdb

        count = sum(count for _, count in rows)
        keys = [[(path, name) for path, _ in rows] for name in names]
        if all(key in self._given for column in keys for key in column):
            return [[self._given.pop(key) for key in column] for column in keys]
        wanted = [name for name in names if name is not None]
        if not wanted:
            return [[missing(count)] for _ in names]
        query = select({f"c{at}": f"{identifier(name)}::DOUBLE" for at, name in enumerate(wanted)})
        query = f"select {query} from {scan([path for path, _ in rows])}"
        try:
            with connect() as database:
                values = database.execute(query).fetchnumpy()
        except duckdb.OutOfMemoryException as error:
            raise out_of_memory(error) from None
        except duckdb.Error:
            half = len(rows) // 2
            if not half:
                self._leave_out(rows[0][0])
                return [[missing(count)] for _ in names]
            halves = self._read(names, rows[:half]), self._read(names, rows[half:])
            return [first + second for first, second in zip(*halves, strict=True)]
        read = iter(values.values())
        return [[missing(count) if name is None else plain(next(read))] for name in names]
