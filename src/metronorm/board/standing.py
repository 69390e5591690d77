"""How runs stand, for a list of many: their state, newest tick and plan, without their values.

A run costs a few small reads here, and no query of its own: what is sealed is read for many runs
together. `metronorm.runs.state` decides the state.

| what | is read from |
| --- | --- |
| events | lines of the tapes of the newest attempt; Parquet parts of many runs in one query |
| the newest tick | the last whole line of a tape; else the statistics of the newest Parquet part |
| whether its process lives | the owner files, at every look |
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from metronorm.board.opening import check_size
from metronorm.errors import RunError
from metronorm.files import open_regular
from metronorm.runs.config import planned_ticks, with_file
from metronorm.runs.state import STATE_EVENTS, AttemptEvents, attempt_state
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import FILE, WITH_FILE, files_of, has_parquet_magic, scan
from metronorm.store.run_directory import folder_number, numbered_folders
from metronorm.store.schema import EventRecord
from metronorm.store.sql_columns import literal
from metronorm.store.tape import LIVE
from metronorm.store.unsealed_lines import read_tape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from metronorm.store.run_directory import RunInfo

AT_ONCE = 200  # runs whose parts are read in one query
UNDER_WAY = ("running", "running or killed", "not begun")  # states of runs that get records
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode
_READ = ("changed", "between", "not finite", *STATE_EVENTS)
_END = 64 << 10  # bytes at the end of a tape in which its last line usually is
_MOST_RANKS = 64
_MOST_LINE = 64 << 20  # bytes; a tape that ends with a longer line is damaged
STALLED_NS, STALLED_TICKS = 60_000_000_000, 10  # no tick for this long, and for this many ticks


class _LastTick(msgspec.Struct):
    """What a list needs of the last line of a tape of ticks."""

    tick: int
    time_ns: int
    wall_ns: int = 0


@dataclass
class Standing:
    """How the newest attempt of a run stands; times are in ns since 1970, 0 if there is none."""

    attempt: int = -1
    ranks: tuple[int, ...] = ()
    events: AttemptEvents = field(default_factory=AttemptEvents)
    changed: dict[str, Any] = field(default_factory=dict)
    not_finite: dict[str, str] = field(default_factory=dict)  # the first such value of a metric
    amended: bool = False  # values were logged between ticks
    tick: int = 0
    time_ns: int = 0
    wall_ns: int = 0
    problem: str | None = None  # why its files cannot be read

    def state(self, directory: Path) -> str:
        """One of the states of `metronorm.runs.state`, as it is now."""
        return attempt_state(directory, self.ranks, self.events)

    def is_stalled(self, state: str, now_ns: int) -> bool:
        """Whether a run that is running has had no tick for long."""
        if state != "running" or not self.time_ns:
            return False
        return now_ns - self.time_ns > max(STALLED_NS, STALLED_TICKS * self.wall_ns)

    def total(self, directory: Path, info: RunInfo) -> int | None:
        """The number of ticks that the newest attempt is to reach."""
        config = dict(info.config)
        if isinstance(change := self.changed.get("ticks"), list) and len(change) == 2:
            config["ticks"] = change[1]
        return planned_ticks(with_file(config, directory))


class Signature(NamedTuple):
    """What changes when a run gets records: `tapes` with an attempt, the others with a line."""

    tapes: tuple[str, ...] = ()
    events: tuple[tuple[str, int], ...] = ()
    ticks: tuple[tuple[str, int], ...] = ()


def signature(directory: Path) -> Signature:
    """The names of the tapes of the newest attempt, and the names and sizes of their files."""
    tapes: list[str] = []
    files: dict[str, list[tuple[str, int]]] = {"events": [], "ticks": []}
    try:
        attempts = map(folder_number, numbered_folders(directory / "ticks", "attempt"))
        attempt = max(attempts, default=-1)
        for kind, found in files.items():
            for folder in _tapes(directory, kind, attempt):
                tapes.append(str(folder))
                with os.scandir(folder) as entries:
                    found += sorted((entry.name, entry.stat().st_size) for entry in entries)
    except (OSError, RunError):  # a folder was replaced meanwhile, or may not be read
        pass
    return Signature(tuple(tapes), tuple(files["events"]), tuple(files["ticks"]))


def read_standings(directories: Iterable[tuple[Path, RunInfo]]) -> Iterator[tuple[Path, Standing]]:
    """How each of the runs stands; what cannot be read is left out, or is its `problem`."""
    waiting = list(directories)
    for begin in range(0, len(waiting), AT_ONCE):
        yield from _read_batch(waiting[begin : begin + AT_ONCE])


def _read_batch(batch: list[tuple[Path, RunInfo]]) -> Iterator[tuple[Path, Standing]]:
    try:
        looks = _look_at_all(batch)
    except Exception as error:  # a run may come from anybody: its Parquet may hold anything
        if len(batch) > 1:
            for each in batch:
                yield from _read_batch([each])
            return
        text = f"the records of a run must have their form; got {type(error).__name__}: {error}"
        yield batch[0][0], Standing(problem=text)
        return
    yield from ((look.directory, look.standing) for look in looks)


def _look_at_all(batch: list[tuple[Path, RunInfo]]) -> list[_Look]:
    looks = [_look(directory, info) for directory, info in batch]
    # DuckDB gives the paths of files without links; what a link leads to elsewhere is left out
    by_path = {str(look.directory.resolve()): look for look in looks}
    for path, *event in _sealed_events([part for look in looks for part in look.events]):
        if look := by_path.get(_run_of(path)):
            look.found.append((*event,))
    for path, tick, time_ns in _sealed_ticks([part for look in looks for part in look.ticks]):
        look = by_path.get(_run_of(path))
        if look and time_ns >= look.standing.time_ns:
            look.standing.tick = max(tick, look.standing.tick)
            look.standing.time_ns = time_ns
    for look in looks:
        for _, rank, name, fields in sorted(look.found, key=lambda event: event[:2]):
            _add_event(look.standing, name, rank, fields)
        look.standing.state(look.directory)  # so that fields of another form are a problem here
    return looks


def _tapes(directory: Path, kind: str, attempt: int) -> list[Path]:
    return numbered_folders(directory / kind / f"attempt={attempt}", "rank")


@dataclass
class _Look:
    """A first look at a run: events (time, rank, name, fields), and the parts to be read too."""

    directory: Path
    standing: Standing = field(default_factory=Standing)
    found: list[tuple[int, int, str, Any]] = field(default_factory=list)
    events: list[Path] = field(default_factory=list)
    ticks: list[Path] = field(default_factory=list)


def _look(directory: Path, info: RunInfo) -> _Look:
    look = _Look(directory)
    try:
        attempts = numbered_folders(directory / "ticks", "attempt")
        if not attempts:
            return look
        attempt = max(map(folder_number, attempts))
        ticks = _tapes(directory, "ticks", attempt)
        check_size(directory)
        look.standing = found = Standing(attempt, tuple(map(folder_number, ticks)))
        for folder in _tapes(directory, "events", attempt):
            sealed, lines = read_tape(folder, "events", info.id)
            look.events += [part for part in sealed if has_parquet_magic(part)]
            rank = folder_number(folder)
            for line in lines.whole:
                record = msgspec.json.decode(line, type=EventRecord)
                look.found.append((record.time_ns, rank, record.event, record.fields))
        for folder in ticks[:_MOST_RANKS]:  # all ranks have about the same tick
            last = last_tick(folder)
            if last is None:
                look.ticks += _newest_part(folder)
            elif last.time_ns >= found.time_ns:
                found.tick, found.time_ns = max(last.tick, found.tick), last.time_ns
                found.wall_ns = last.wall_ns
    except RunError as error:
        look.standing.problem = str(error)
    except OSError:  # a file was replaced meanwhile: the next look finds it
        pass
    return look


def _add_event(standing: Standing, name: str, rank: int, fields: dict[str, Any]) -> None:
    standing.events.add(name, rank, fields)
    match name, fields:
        case "changed", {"config": dict(changes)}:
            standing.changed |= changes
        case "not finite", {"metric": str(metric), "value": value}:
            standing.not_finite.setdefault(metric, str(value))
        case "between", _:
            standing.amended = True


def last_tick(folder: Path) -> _LastTick | None:
    """The last whole line of the unsealed tape in a folder; None if there is none."""
    names = [LIVE]
    try:
        names += sorted((path.name for path in folder.glob("_part-*.jsonl")), reverse=True)
        for name in names:
            line = _last_line(folder / name)
            if line:
                return msgspec.json.decode(line, type=_LastTick)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None


def _last_line(path: Path) -> bytes:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return b""
    with open(file, "rb") as tape:
        end = os.fstat(file).st_size
        length = _END
        while True:
            tape.seek(max(end - length, 0))
            lines = tape.read(length).split(b"\n")[:-1]  # what follows the last newline is torn
            if len(lines) > 1 or length >= end:
                return lines[-1] if lines else b""
            if length >= _MOST_LINE:
                return b""
            length *= 8


def _newest_part(folder: Path) -> list[Path]:
    parts = sorted(folder.glob("part-*.parquet"), reverse=True)
    return next(([part] for part in parts if has_parquet_magic(part)), [])


def _sealed_events(parts: list[Path]) -> list[tuple[str, int, int, str, Any]]:
    names = ", ".join(map(literal, _READ))

    def query(batch: list[Path]) -> str:
        return f"""select {FILE}, time_ns, event, fields::VARCHAR from {scan(batch, WITH_FILE)}
                   where event in ({names})"""

    return [
        (path, time_ns, folder_number(Path(path).parent), name, _decode_fields(fields or "{}"))
        for path, time_ns, name, fields in _query(parts, query)
    ]


def _sealed_ticks(parts: list[Path]) -> list[tuple[str, int, int]]:
    def query(batch: list[Path]) -> str:
        of = "max(stats_max_value::BIGINT) filter (path_in_schema = '{}')"
        return f"""select file_name, {of.format("tick")}, {of.format("time_ns")}
                   from parquet_metadata({files_of(batch)})
                   where path_in_schema in ('tick', 'time_ns') group by file_name"""

    return [(path, tick or 0, time_ns or 0) for path, tick, time_ns in _query(parts, query)]


def _query(parts: list[Path], query: Callable[[list[Path]], str]) -> list[tuple[Any, ...]]:
    """The rows of a query over parts; of those that are damaged, none."""
    import duckdb

    if not parts:
        return []
    try:
        with connect(threads=1) as connection:
            rows: list[tuple[Any, ...]] = connection.execute(query(parts)).fetchall()
            return rows
    except (duckdb.Error, RunError):
        half = len(parts) // 2
        return [*_query(parts[:half], query), *_query(parts[half:], query)] if half else []


def _run_of(part: str) -> str:
    """The run of a part: RUN/KIND/attempt=N/rank=R/part-00000.parquet."""
    return str(Path(part).parents[3])
