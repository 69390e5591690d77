"""Imported values as a run on disk: the one place that knows how a run is written."""

from __future__ import annotations

import contextlib
import logging
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
from metronorm.store.run_directory import RUN_FILE, create_run, run_file, tape_folder
from metronorm.store.schema import TickRecord
from metronorm.store.sealing import seal_tape
from metronorm.store.tape import LIVE, encode
from metronorm.text import printable

_log = logging.getLogger("metronorm")
_DEEPEST = 100


@dataclass
class Imported:
    """What was read of one run of another tracker.

    Args:
        format: of the source.
        source: what it came from.
        samples: of the machine: time and values, by the names that the tracker gave them.
        notices: what is amiss with the source, in words.
        host: name of the machine it ran on.
        end: fields of the event that says how it ended; None: it did not, as far as is known.
        restore: makes a record whole, where the source holds more of it than metrics.
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
    """A place to write runs to, which becomes `directory` when the block ends well.

    Raises:
        RunError: there is something at `directory` already, or it cannot be written.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise RunError(
            "imported runs need a directory of their own",
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


def write_run(run: Imported, directory: Path, name: str) -> None:
    """Write one run; `name` is what it is called if its source does not say.

    What of the source could not come over is logged as a warning, and an event `notice`.

    Raises:
        DataError: it holds no values.
    """
    history = run.history
    if not history.attempts:
        raise DataError("there must be scalars to import", got=f"none in {run.source}")
    origin = {"format": run.format, "source": str(run.source.absolute())}
    config = as_json({**run.config, "imported": origin}, finite=False)
    info = create_run(directory, name=as_json(run.name or name), config=config)
    # what describes the process that imports says nothing of the run
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
        told = lines["events"][attempt]
        host = {"host": run.host} if run.host else {}
        told.insert(0, _event_line(Event("start", first_ns, host), min(rows)))
        if attempt == attempts[-1] and run.end is not None:
            end_ns = max([last_ns, *(event.time_ns for event in events)])
            told.append(_event_line(Event("end", end_ns, run.end), max(rows)))
        _write_tape(directory, "ticks", attempt, map(encode, _records(run, attempt)))
        for kind, those in lines.items():
            _write_tape(directory, kind, attempt, those[attempt])


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
    fields = as_json(event.fields)
    return encode({"event": event.name, "tick": tick, "time_ns": event.time_ns, "fields": fields})


def as_json(value: Any, *, finite: bool = True, depth: int = 0) -> Any:
    """What JSON holds of a value as it is, and text for the rest, such as half a surrogate pair.

    Args:
        value: of any kind.
        finite: NaN and infinities become text too.
        depth: of the value in another; what lies deeper than 100 is text.
    """
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float):
        return str(value) if finite and not isfinite(value) else value
    if isinstance(value, dict | list | tuple) and depth == _DEEPEST:
        return "(nested too deeply)"
    if isinstance(value, dict):
        return {
            as_json(str(key)): as_json(each, finite=finite, depth=depth + 1)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [as_json(each, finite=finite, depth=depth + 1) for each in value]
    return value if value is None or isinstance(value, int) else str(value)


def _notices(run: Imported) -> list[str]:
    found = list(run.notices)
    history = run.history
    if history.replaced:
        found.append(
            f"values left out for later ones of the same metric and step: {history.replaced:,}"
        )
    if history.purged:
        found.append(
            "values left out as their writer had them purged (purge_step), and no later one took "
            f"their places: {history.purged:,}"
        )
    if history.mixed:
        found.append(
            "metrics count their steps differently (ticks, epochs), so a restart is in the same "
            "attempt as what was before"
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
    if any(folder.glob("*.damaged")):  # nothing that is left out may pass for imported
        raise DataError("a record must fit into the columns of a run", got=f"{kind} that do not")
