"""Reads the event files of one directory of TensorBoard."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metronorm.integrations._tensorboard import messages, session_hyperparameters
from metronorm.integrations.axes import Times
from metronorm.integrations.importing.event_file import EventFile
from metronorm.integrations.importing.history import Event, Value
from metronorm.integrations.importing.sources import damage_notice
from metronorm.integrations.importing.summaries import buckets, histogram, number
from metronorm.integrations.names import EXACT_TAG, PLUGIN, RUN_TAG

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass
class Stretch:
    """The values that one writer logged, in order.

    Attributes:
        time_ns: the time of the first value, in nanoseconds since 1970.
        values: the values.
        purge: the first step of what the writer has purged (`purge_step`); None: it has not.
    """

    time_ns: int
    values: list[Value] = field(default_factory=list)
    purge: int | None = None


@dataclass
class Log:
    """The contents of the event files in one directory."""

    stretches: list[Stretch] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    run: dict[str, Any] | None = None
    host: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    plugins: dict[str, str] = field(default_factory=dict)
    times: Times = field(default_factory=Times)


def read_log(paths: list[Path]) -> Log:
    """Read the files of one directory; count what cannot be read.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """
    decode = messages().Event.FromString
    log = Log()
    for path in paths:
        file = EventFile(path)
        try:
            found = _stretches(log, file, decode)
        except OSError as error:
            log.notices.append(f"{path.name} cannot be read: {error.strerror or error}")
            continue
        log.notices += damage_notice(path, file.unread, file.size)
        tags = {value[2] for stretch in found for value in stretch.values}
        if tags:
            log.tags |= tags
            log.host = log.host or _host(path)
        log.stretches += found
    log.stretches.sort(key=lambda stretch: stretch.time_ns)
    return log


def _stretches(log: Log, file: EventFile, decode: Callable[[bytes], Any]) -> list[Stretch]:
    from google.protobuf.message import DecodeError

    found = [Stretch(0)]
    time_ns = 0
    for record in file:
        try:
            event = decode(record)
        except DecodeError:
            log.left_out["damaged records"] += 1
            continue
        time_read = log.times.read(event.wall_time)
        time_ns = time_ns if time_read is None else time_read
        what, step = event.WhichOneof("what"), event.step
        if what == "session_log" and event.session_log.status == event.session_log.START:
            found.append(Stretch(time_ns, purge=step))
        elif what not in ("summary", "file_version", "session_log", None):
            log.left_out[what] += 1
        stretch = found[-1]
        for value in event.summary.value:
            stretch.time_ns = stretch.time_ns if stretch.values else time_ns
            if value.HasField("simple_value"):
                stretch.values.append((step, time_ns, value.tag, value.simple_value))
                continue
            try:
                _take_summary(log, stretch.values, value, step, time_ns)
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError, DecodeError):
                log.left_out["summaries that cannot be read"] += 1
    return [stretch for stretch in found if stretch.values or stretch.purge is not None]


def _take_summary(log: Log, values: list[Value], value: Any, step: int, time_ns: int) -> None:
    """Take one summary that is not a plain number."""
    kind, tag = value.WhichOneof("value"), value.tag
    plugin = value.metadata.plugin_data.plugin_name or log.plugins.get(tag, "")
    log.plugins[tag] = plugin  # only a tag's first summary must name its plug-in
    if plugin == PLUGIN and tag == EXACT_TAG:
        exact = value.tensor.double_val  # all digits of the scalars just before this one
        begin = max(len(values) - len(exact), 0)
        values[begin:] = [(*v[:3], digits) for v, digits in zip(values[begin:], exact, strict=True)]
        return
    if kind == "tensor" and (plugin == "scalars" or not plugin):
        scalar = number(value.tensor)
        if scalar is not None:
            values.append((step, time_ns, tag, scalar))
            return
    if plugin == "text" and kind == "tensor":
        text = b"\n".join(value.tensor.string_val).decode(errors="replace")
        if tag == RUN_TAG:
            run = json.loads(text)
            log.name, log.run = str(run["name"]), dict(run["config"])
        else:
            fields = {"tag": tag, "text": text, "step": step}
            log.events.append(Event("text", time_ns, fields))
    elif kind == "histo":
        log.events.append(Event("histogram", time_ns, histogram(value.histo, tag, step)))
    elif plugin == "histograms" and kind == "tensor":
        log.events.append(Event("histogram", time_ns, buckets(value.tensor, tag, step)))
    elif plugin == "hparams":
        log.config.update(session_hyperparameters(value.metadata.plugin_data.content))
    else:
        log.left_out[plugin or kind or "summaries"] += 1


def _host(path: Path) -> str | None:
    """Return the host in `events.out.tfevents.TIME.HOST.PROCESS.NUMBER`."""
    parts = path.name.partition("tfevents.")[2].split(".")
    return ".".join(parts[1:-2]) or None
