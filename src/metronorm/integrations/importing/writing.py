"""Writes imported values as a run on disk; no other file of the importers knows the format."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from metronorm.errors import DataError, RunError
from metronorm.files import directory_aside, write_atomic
from metronorm.integrations.importing.history import Event, History, Places
from metronorm.integrations.importing.machine import split_sample
from metronorm.integrations.json_values import as_json
from metronorm.store.run_directory import RUN_FILE, create_run, run_file, tape_folder
from metronorm.store.schema import TickRecord
from metronorm.store.sealing import seal_tape
from metronorm.store.tape import LIVE, encode
from metronorm.text import printable

_log = logging.getLogger("metronorm")


@dataclass
class Imported:
    """One run of another tracker, as it was read.

    Args:
        format: the source's format.
        source: the file or directory that it came from.
        name: the run's name; None if the source has none.
        config: the run's config.
        history: the run's values.
        events: other things that happened, with their times.
        samples: samples of the machine: the time in nanoseconds since 1970, and values by the names
            that the tracker gave them.
        notices: problems with the source, in words.
        host: the name of the machine that it ran on.
        end: the fields of the event about its end; None: no end is known.
        restore: a function that completes a record if the source has more of it than metrics.
    """

    format: str
    source: Path
    name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: History = field(default_factory=History)
    events: list[Event] = field(default_factory=list)
    samples: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    host: str | None = None
    end: dict[str, Any] | None = field(default_factory=dict)
    restore: Callable[[TickRecord], None] | None = None


@contextlib.contextmanager
def new_runs(directory: Path) -> Iterator[Path]:
    """Give a directory to write runs to; it becomes `directory` if the block raises nothing.

    Raises:
        RunError: `directory` is not empty or cannot be written.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise RunError(
            "imported runs need a new directory",
            got=f"{directory}, which is not empty",
            fix="name a new one",
        )
    try:
        with directory_aside(directory) as aside:
            yield aside
    except OSError as error:
        raise RunError(
            "a run's directory must be writable", got=f"{directory}: {error.strerror or error}"
        ) from None


def with_values(runs: list[Imported], of: str = "") -> tuple[list[Imported], list[str]]:
    """Return the runs that have values, and a notice about the others.

    Args:
        runs: runs that were read.
        of: words for the notice that say where the runs are from.
    """
    full = [run for run in runs if run.history.attempts]
    empty = [run.name or "run" for run in runs if not run.history.attempts]
    if not empty:
        return full, []
    return full, [f"runs {of}left out that hold no number: {len(empty):,}, such as {empty[0]!r}"]


def write_runs(runs: dict[Path, Imported], directory: Path) -> list[Path]:
    """Write runs to folders in a new directory.

    Args:
        runs: each run by its folder, relative to `directory`; `Path()` is the directory itself.
        directory: the new directory.

    Returns:
        The runs' directories.

    Raises:
        RunError: `directory` is not empty or cannot be written.
    """
    with new_runs(directory) as aside:
        for folder, run in runs.items():
            write_run(run, aside / folder, folder.name or run.name or directory.name)
    return [directory / folder for folder in runs]


def folder_names(runs: list[Imported]) -> list[str]:
    """Return a name of a folder for each run: letters, digits and -._+, and no name twice."""
    taken: set[str] = set()
    made = []
    for run in runs:
        plain = re.sub(r"[^\w.+-]+", "-", run.name or "run").strip("-.") or "run"
        number, free = 1, plain
        while free.lower() in taken:
            number += 1
            free = f"{plain}-{number}"
        taken.add(free.lower())
        made.append(free)
    return made


def write_run(run: Imported, directory: Path, name: str) -> None:
    """Write one run to `directory`; it is called `name` if its source has no name.

    What could not be imported is logged as a warning, and recorded as an event `notice`.

    Raises:
        DataError: the run has no values.
    """
    history = run.history
    if not history.attempts:
        raise DataError("there must be scalars to import", got=f"none in {run.source}")
    origin = {"format": run.format, "source": str(run.source.absolute())}
    config = as_json({**run.config, "imported": origin})
    info = create_run(directory, name=as_json(run.name or name), config=config)
    # `create_run` describes the present process, which is not the one that made this run
    info = msgspec.structs.replace(
        info,
        created_ns=history.times(0)[0],
        command=[],
        versions={},
        git=None,
        host={"name": run.host} if run.host else {},
    )
    write_atomic(directory / RUN_FILE, run_file(info))
    places = Places(history)
    notices = _notices(run)
    for notice in notices:
        _log.warning("%s: %s", printable(name), printable(notice))
    samples = [(time_ns, *split_sample(values)) for time_ns, values in run.samples]
    events = [
        Event("imported", info.created_ns, origin),
        *(Event("notice", info.created_ns, {"message": text}) for text in notices),
        *run.events,
        *(Event("system", time_ns, rest) for time_ns, _, rest in samples if rest),
    ]
    attempts = range(len(history.attempts))
    lines: dict[str, list[list[bytes]]] = {
        kind: [[] for _ in attempts] for kind in ("events", "resources")
    }
    for event in events:
        attempt, tick = places.find(event.time_ns)
        step = event.fields.get("step")
        tick = step if step in history.attempts[attempt] else tick
        lines["events"][attempt].append(_event_line(event, tick))
    for time_ns, known, _ in samples:
        if known:
            attempt, tick = places.find(time_ns)
            record = {"tick": tick, "time_ns": time_ns, "values": known}
            lines["resources"][attempt].append(encode(record))
    for attempt in attempts:
        first_ns, last_ns = history.times(attempt)
        rows = history.attempts[attempt]
        event_lines = lines["events"][attempt]
        host = {"host": run.host} if run.host else {}
        event_lines.insert(0, _event_line(Event("start", first_ns, host), min(rows)))
        if attempt == attempts[-1] and run.end is not None:
            end_ns = max([last_ns, *(event.time_ns for event in events)])
            event_lines.append(_event_line(Event("end", end_ns, run.end), max(rows)))
        _write_tape(directory, "ticks", attempt, map(encode, _records(run, attempt)))
        for kind, by_attempt in lines.items():
            _write_tape(directory, kind, attempt, by_attempt[attempt])


def _records(run: Imported, attempt: int) -> Iterator[TickRecord]:
    for step, time_ns, wall_ns, metrics in run.history.ticks(attempt):
        record = TickRecord(
            tick=step,
            time_ns=time_ns,
            wall_ns=wall_ns,
            beats=1,
            phases={},
            metrics={name: v if isfinite(v) else str(v) for name, v in metrics.items()},
        )
        if run.restore is not None:
            run.restore(record)
        yield record


def _event_line(event: Event, tick: int) -> bytes:
    fields = as_json(event.fields, allow_nan=False)
    return encode({"event": event.name, "tick": tick, "time_ns": event.time_ns, "fields": fields})


def _notices(run: Imported) -> list[str]:
    found = list(run.notices)
    history = run.history
    if history.replaced:
        found.append(
            "values left out because a later one has the same metric and step: "
            f"{history.replaced:,}"
        )
    if history.purged:
        found.append(
            "values left out because their writer purged them (purge_step) and no later value "
            f"replaced them: {history.purged:,}"
        )
    if history.mixed:
        found.append(
            "metrics count their steps differently (ticks, epochs), so a restart may be in the "
            "attempt before it"
        )
    if history.left_out:
        found.append(
            f"metrics left out beyond the first {len(history.names):,}: {len(history.left_out):,}, "
            f"such as {min(history.left_out)!r}"
        )
    return found


def _write_tape(directory: Path, kind: str, attempt: int, lines: Iterable[bytes]) -> None:
    folder = tape_folder(directory, kind, attempt, 0)
    folder.mkdir(parents=True)
    with open(folder / LIVE, "wb", buffering=1 << 20) as file:
        file.writelines(lines)
    seal_tape(folder)
    if any(folder.glob("*.damaged")):  # lines that are not in the sealed part are not imported
        raise DataError("a record must fit into the columns of a run", got=f"{kind} that do not")
