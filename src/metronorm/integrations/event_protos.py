"""Writes runs as TensorBoard's events."""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from metronorm.integrations._tensorboard import messages
from metronorm.integrations.importing.event_file import record_of
from metronorm.integrations.names import (
    BEATS_TAG,
    EXACT_TAG,
    GC_TAG,
    PLUGIN,
    RUN_TAG,
    WALL_TAG,
    tag_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from metronorm.runs import Run

_DOUBLE, _STRING = 2, 7  # of the enumeration DataType
_MOMENTS = ("min", "max", "sum", "sum_squares")
_serial = itertools.count()  # makes the names of files differ that are made in one second


def write_events(run: Run, rank: int, directory: Path) -> None:
    """Write the effective history of one rank into an event file in `directory`.

    Raises:
        MissingDependencyError: tensorboard is not installed.
        OSError: the directory cannot be written.
    """
    protos = EventProtos()
    directory.mkdir(parents=True, exist_ok=True)
    # This is how TensorBoard's own writer names its files; readers look for `tfevents`.
    parts = (f"{int(time.time()):010}", platform.node(), os.getpid(), next(_serial))
    name = ".".join(map(str, ("events.out.tfevents", *parts)))
    with open(directory / name, "wb", buffering=1 << 20) as file:
        file.write(record_of(protos.beginning().SerializeToString()))
        for event in _events(protos, run, rank):
            file.write(record_of(event.SerializeToString()))


def _events(protos: EventProtos, run: Run, rank: int) -> Iterator[Any]:
    description = json.dumps({"name": run.info.name, "config": run.info.config})
    yield protos.text(RUN_TAG, description, 0, run.info.created_ns)
    rows = run.events().sql(
        "select tick, time_ns, event, fields from events where rank = "
        f"{rank} and event in ('histogram', 'text', 'late scalar') order by time_ns"
    )
    others = [(*row[:3], json.loads(row[3])) for row in rows.fetchall()]
    placed: dict[int, set[str]] = defaultdict(set)
    for tick, _, event, fields in others:
        if event == "late scalar" and fields["placed"]:
            placed[tick].add(fields["metric"])
    for tick, time_ns, scalars in _ticks(run, rank):
        for metric in placed.get(tick, ()):
            scalars.pop(tag_of(metric), None)  # this value was logged for another step
        yield protos.scalars(scalars.items(), tick, time_ns)
    for _, time_ns, event, fields in others:
        if event == "text":
            yield protos.text(fields["tag"], str(fields["text"]), fields["step"], time_ns)
        elif event == "histogram":
            yield protos.histogram(fields, time_ns)
        else:
            scalar = (tag_of(fields["metric"]), float(fields["value"]))
            yield protos.scalars([scalar], fields["step"], time_ns)


def _ticks(run: Run, rank: int) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Yield the number, time and scalars of each tick."""
    table = run.ticks()
    tags = {name: tag_of(name) for name in table.metrics}
    seconds = {"wall_ns": WALL_TAG, "gc_ns": GC_TAG}
    seconds |= {f"{phase}_ns": f"phase/{phase}_seconds" for phase in table.phases}
    names = table.columns
    rows = table.sql(f"select * from ticks where rank = {rank} order by tick")
    for cells in rows.fetchall():
        row = dict(zip(names, cells, strict=True))
        scalars = {tag: row[name] for name, tag in tags.items() if row[name] is not None}
        for name, tag in seconds.items():
            if row.get(name) is not None:
                scalars[tag] = row[name] / 1e9
        if row["beats"] != 1:
            scalars[BEATS_TAG] = row["beats"]
        yield row["tick"], row["time_ns"], scalars


class EventProtos:
    """Makes `Event` messages. The first event of a tag names the plug-in that shows it."""

    def __init__(self) -> None:
        self._messages = messages()
        self._named: set[str] = set()  # tags with an event that names their plug-in

    def beginning(self) -> Any:
        """Return the event that every event file begins with."""
        return self._messages.Event(wall_time=time.time(), file_version="brain.Event:2")

    def restart(self, step: int) -> Any:
        """Return the event by which readers leave out what came before it from this step on."""
        log = self._messages.SessionLog(status=self._messages.SessionLog.START)
        return self._messages.Event(wall_time=time.time(), step=step, session_log=log)

    def scalars(self, scalars: Iterable[tuple[str, float]], step: int, time_ns: int) -> Any:
        """Return scalars in single precision, which TensorBoard shows, and in double if needed."""
        values, exact = [], []
        rounded = False
        for tag, number in scalars:
            value = self._messages.Summary.Value(tag=tag, simple_value=number)
            rounded |= value.simple_value != number == number
            values.append(value)
            exact.append(number)
        if rounded:
            tensor = self._messages.TensorProto(dtype=_DOUBLE, double_val=exact)
            value = self._messages.Summary.Value(tag=EXACT_TAG, tensor=tensor)
            self._name_plugin(value, PLUGIN)
            values.append(value)
        return self._at(values, step, time_ns)

    def histogram(self, fields: dict[str, Any], time_ns: int) -> Any:
        """Return a histogram as torch writes it: the first bucket is empty, up to the first edge.

        `fields` are those of the event `histogram`.
        """
        counts = fields["counts"]
        moments = {name: fields[name] for name in _MOMENTS if fields.get(name) is not None}
        proto = self._messages.HistogramProto(
            num=sum(counts), bucket_limit=fields["edges"], bucket=[0, *counts], **moments
        )
        value = self._messages.Summary.Value(tag=fields["tag"], histo=proto)
        return self._at([value], fields["step"], time_ns)

    def text(self, tag: str, text: str, step: int, time_ns: int) -> Any:
        """Return a text, for the plug-in that shows texts."""
        tensor = self._messages.TensorProto(dtype=_STRING, string_val=[text.encode()])
        value = self._messages.Summary.Value(tag=tag, tensor=tensor)
        self._name_plugin(value, "text")
        return self._at([value], step, time_ns)

    def _name_plugin(self, value: Any, plugin: str) -> None:
        if value.tag not in self._named:
            self._named.add(value.tag)
            metadata = self._messages.SummaryMetadata
            value.metadata.CopyFrom(metadata(plugin_data=metadata.PluginData(plugin_name=plugin)))

    def _at(self, values: list[Any], step: int, time_ns: int) -> Any:
        summary = self._messages.Summary(value=values)
        return self._messages.Event(step=step, wall_time=time_ns / 1e9, summary=summary)
