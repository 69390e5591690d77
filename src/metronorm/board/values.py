"""The last, lowest and highest value of metrics, for the table of many runs.

A metric is read when somebody asks for it, and kept until the run's files change.

| a run that | is read |
| --- | --- |
| has ended, in one attempt of one rank, all of it sealed | with others like it, in one query |
| has ended | by itself, as `open_run` reads it |
| is being written | by its series, which read what is new |
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from metronorm.board.opening import open_checked
from metronorm.board.series.tracks import Value
from metronorm.board.standing import UNDER_WAY
from metronorm.errors import MetronormError
from metronorm.runs.directions import better
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import FILE, WITH_FILE, scan, schemas
from metronorm.store.run_directory import tape_folder
from metronorm.store.schema import FIXED
from metronorm.store.sql_columns import identifier
from metronorm.store.unsealed_lines import sealed_parts, unsealed_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import duckdb

    from metronorm.board.entry import Entry
    from metronorm.board.series import RunSeries
    from metronorm.board.standing import Signature

AT_ONCE = 100  # runs in one query
KINDS = ("last", "min", "max", "best")


def value_of(value: Value, kind: str, metric: str, config: dict[str, Any]) -> float | None:
    """One number of a value; None if there is none, or if it is not known what is best.

    Args:
        value: of the metric.
        kind: one of `KINDS`.
        metric: the name of the metric.
        config: of the run; it may say what is best.
    """
    if kind == "best":
        direction = better(metric, config)
        kind = {"lower": "min", "higher": "max", None: ""}[direction]
    return {"last": value.last, "min": value.low, "max": value.high}.get(kind)


class Values:
    """Reads values of metrics, and keeps them. All methods may be called from any thread.

    Args:
        series: gives the series of a run, as they are now.
    """

    def __init__(self, series: Callable[[Entry], RunSeries]) -> None:
        self._series = series
        self._lock = threading.Lock()
        # what is known of a run goes with its entry
        self._kept: WeakKeyDictionary[Entry, dict[str, tuple[Signature, Value | None]]]
        self._kept = WeakKeyDictionary()
        self._names: WeakKeyDictionary[Entry, tuple[Signature, tuple[str, ...]]]
        self._names = WeakKeyDictionary()
        self._same: dict[tuple[str, ...], tuple[str, ...]] = {}

    def known(self, entry: Entry, metric: str) -> Value | None:
        """The value that was read last; None if the run has no such metric."""
        found = self._kept.get(entry, {}).get(metric)
        return found[1] if found else None

    def read(
        self, entries: Iterable[Entry], metrics: Sequence[str], *, seconds: float
    ) -> list[Entry]:
        """Read values that are not known or have changed.

        Args:
            entries: the runs.
            metrics: names; a run need not have them.
            seconds: after this time no more runs are begun.

        Returns:
            The runs that are left to read.
        """
        until = time.monotonic() + seconds
        waiting = [one for one in entries if self._lacks(one, metrics)]
        if not waiting:
            return []
        with self._lock:
            # what another request has read meanwhile is not read again
            waiting = [one for one in waiting if self._lacks(one, metrics)]
            parts = {one.directory: part for one in waiting if (part := _only_part(one))}
            together = [one for one in waiting if one.directory in parts]
            others = [one for one in waiting if one.directory not in parts]
            while together and time.monotonic() < until:
                batch, together = together[:AT_ONCE], together[AT_ONCE:]
                others += self._read_together(batch, parts, metrics)
            while others and time.monotonic() < until:
                self._read_one(others.pop(0), metrics)
        return [*together, *others]

    def names(self, entries: Iterable[Entry], *, seconds: float) -> tuple[list[str], list[Entry]]:
        """The names of all metrics of some runs, which takes no look at the values.

        Args:
            entries: the runs.
            seconds: after this time no more runs are begun.

        Returns:
            The names, those of the first run first, and the runs that are left to read.
        """
        until = time.monotonic() + seconds
        unknown = [entry for entry in entries if entry.is_unread]
        entries = [entry for entry in entries if entry.standing]
        with self._lock:
            waiting = [
                entry
                for entry in entries
                if entry not in self._names or self._names[entry][0] != entry.signature
            ]
            parts = [(entry, part) for entry in waiting if (part := _only_part(entry))]
            while parts and time.monotonic() < until:
                self._read_names(parts[:AT_ONCE])
                del parts[:AT_ONCE]
            left = []
            for entry in waiting:
                found = self._names.get(entry)
                if found is not None and found[0] == entry.signature:
                    continue
                if time.monotonic() < until:
                    self._read_own_names(entry)
                else:
                    left.append(entry)
            known = (self._names.get(entry) for entry in entries)
            names = dict.fromkeys(name for found in known if found for name in found[1])
        return [*names], [*unknown, *left]

    def _read_names(self, parts: Sequence[tuple[Entry, Path]]) -> None:
        """Read the names of runs of one part each; of damaged ones nothing is kept."""
        import duckdb

        signatures = [entry.signature for entry, _ in parts]
        try:
            with connect(threads=1) as connection:
                found = schemas(connection, [part for _, part in parts])
        except (duckdb.Error, MetronormError):
            return
        own = ("attempt", "rank", *FIXED["ticks"])
        for (entry, _), signature, schema in zip(parts, signatures, found, strict=True):
            names = tuple(
                name for name, _ in schema if not name.endswith("_ns") and name not in own
            )
            # most runs have the same names
            self._names[entry] = signature, self._same.setdefault(names, names)

    def _read_own_names(self, entry: Entry) -> None:
        import duckdb

        signature, names = entry.signature, tuple[str, ...]()
        with contextlib.suppress(duckdb.Error, MetronormError):
            if entry.state in UNDER_WAY:
                names = tuple(self._series(entry).names())
            else:
                names = tuple(open_checked(entry.directory).ticks().metrics)
        self._names[entry] = signature, self._same.setdefault(names, names)

    def _lacks(self, entry: Entry, metrics: Sequence[str]) -> bool:
        if entry.standing is None:  # it is damaged, or will be looked at
            return False
        own = self._kept.get(entry, {})
        kept = (own.get(metric) for metric in metrics)
        return any(found is None or found[0] != entry.signature for found in kept)

    def _keep(
        self, entry: Entry, signature: Signature, values: dict[str, Value], metrics: Sequence[str]
    ) -> None:
        own = self._kept.setdefault(entry, {})
        for metric in metrics:
            own[metric] = signature, values.get(metric)

    def _read_together(
        self, entries: Sequence[Entry], parts: dict[Path, Path], metrics: Sequence[str]
    ) -> list[Entry]:
        """Read runs of one part each; those that cannot be read so are returned."""
        import duckdb

        signatures = [entry.signature for entry in entries]
        files = [parts[entry.directory] for entry in entries]
        try:
            with connect(threads=1) as connection:
                found = _read_parts(connection, files, metrics)
        except (duckdb.Error, MetronormError):
            return [*entries]
        for entry, file, signature in zip(entries, files, signatures, strict=True):
            self._keep(entry, signature, found[file], metrics)
        return []

    def _read_one(self, entry: Entry, metrics: Sequence[str]) -> None:
        import duckdb

        signature, values = entry.signature, dict[str, Value]()
        try:
            if entry.state in UNDER_WAY:
                series = self._series(entry)
                found = {metric: series.value(metric) for metric in metrics}
                values = {metric: value for metric, value in found.items() if value}
                return
            table = open_checked(entry.directory).ticks()
            names = [metric for metric in metrics if metric in table.metrics]
            if names:
                # of each metric, the first rank that has it
                rows = table.only("tick", "rank", *names).fetch(
                    f"select {_measures(names)} from ticks group by rank order by rank"
                )
                for row in rows:
                    values = _values(row, names) | values
        except (duckdb.Error, MetronormError):
            pass  # the page of the run says what is wrong with it
        finally:
            self._keep(entry, signature, values, metrics)


def _only_part(entry: Entry) -> Path | None:
    """The one Parquet part that has all ticks of a run; None if there are more, or lines."""
    standing = entry.standing
    if standing is None or entry.stood != entry.signature or entry.state in UNDER_WAY:
        return None
    if standing.amended or (standing.attempt, standing.ranks) != (0, (0,)):
        return None
    folder = tape_folder(entry.directory, "ticks", 0, 0)
    try:
        parts = sealed_parts(folder)
        lines = any(path.stat().st_size for path in unsealed_files(folder))
    except (OSError, MetronormError):
        return None
    return parts[0] if len(parts) == 1 and not lines else None


def _read_parts(
    connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], metrics: Sequence[str]
) -> dict[Path, dict[str, Value]]:
    by_names: dict[tuple[str, ...], list[Path]] = {}
    for part, schema in zip(parts, schemas(connection, parts), strict=True):
        columns = {name for name, _ in schema}
        by_names.setdefault(tuple(name for name in metrics if name in columns), []).append(part)
    found: dict[Path, dict[str, Value]] = {part: {} for part in parts}
    for names, same in by_names.items():
        if not names:
            continue
        by_path = {str(part.resolve()): part for part in same}
        rows = connection.execute(
            f"select {FILE}, {_measures(names)} from {scan(same, WITH_FILE)} group by {FILE}"
        ).fetchall()
        for path, *row in rows:
            found[by_path[path]] = _values(row, names)
    return found


def _measures(names: Sequence[str]) -> str:
    """SQL: how many values each metric has, and the fields of `Value`."""
    return ", ".join(
        "count({0}), arg_max({0}, if({0} is null, null, tick)), "
        "min({0}) filter (isfinite({0})), max({0}) filter (isfinite({0})), "
        "count(*) filter (isnan({0})), count(*) filter (isinf({0}))".format(identifier(name))
        for name in names
    )


def _values(row: Sequence[Any], names: Sequence[str]) -> dict[str, Value]:
    return {
        name: Value(*row[6 * at + 1 : 6 * at + 6]) for at, name in enumerate(names) if row[6 * at]
    }
