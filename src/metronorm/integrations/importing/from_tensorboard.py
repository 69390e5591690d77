"""TensorBoard's event files as runs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError, MissingDependencyError
from metronorm.integrations.importing.event_file import EventFile
from metronorm.integrations.importing.history import Event, Value
from metronorm.integrations.importing.summaries import (
    buckets,
    histogram,
    hyperparameters,
    number,
)
from metronorm.integrations.importing.writing import Imported, new_runs, readable, write_run
from metronorm.integrations.names import (
    BEATS_TAG,
    EXACT_TAG,
    PHASE_TAG,
    PLUGIN,
    RUN_TAG,
    WALL_TAG,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from metronorm.clock.record import TickRecord


def import_tensorboard(
    source: str | os.PathLike[str], directory: str | os.PathLike[str]
) -> list[Path]:
    """Make runs of TensorBoard's event files, every scalar of them.

    Args:
        source: an event file, or a directory with event files in it or below. As in TensorBoard,
            each directory with event files is a run; what `add_scalars` put into directories of
            its own comes back as `MAIN/TAG`.
        directory: where the run of `source` itself is made, a new one; those of directories below
            are made in directories of the same names below.

    Returns:
        Directories of the runs.

    A restart, in a later file whose steps go back, is a new attempt. Scalars of a step are one
    record, whose time is that of the first of them and whose `wall_ns` is the time since the record
    before. Hyperparameters become the config; histograms and texts, events.

    Raises:
        DataError: no event files, damaged ones, or no scalars in them.
        RunError: `directory` is not empty or cannot be written.
        MissingDependencyError: tensorboard is not installed.
    """
    source, directory = Path(source), Path(directory)
    folders = _find(source)
    made: list[Path] = []
    with new_runs(directory) as aside:
        for tree in _trees(folders):
            with readable(source):
                logs = {folder: _read(folders[folder]) for folder in tree}
            _take_in(logs)
            for folder, log in logs.items():
                if log.stretches:
                    run = _arrange(log, source / folder if source.is_dir() else source)
                    name = directory.name if folder == Path() else folder.as_posix()
                    write_run(run, aside / folder, name)
                    made.append(directory / folder)
        if not made:
            raise DataError("there must be scalars to import", got=f"none in {source}")
    return made


def _find(source: Path) -> dict[Path, list[Path]]:
    """Event files by the directory they are in, relative to `source`; outer ones first."""
    if source.is_file():
        return {Path(): [source]}
    found: dict[Path, list[Path]] = {}
    for path in sorted(source.rglob("*tfevents*")):
        if path.is_file():
            found.setdefault(path.parent.relative_to(source), []).append(path)
    if not found:
        raise DataError(
            "a TensorBoard log is a directory with event files (*tfevents*)",
            got=f"{source}, which has none" if source.exists() else f"no {source}",
        )
    return dict(sorted(found.items(), key=lambda item: item[0].parts))


def _trees(folders: dict[Path, list[Path]]) -> Iterator[list[Path]]:
    """Directories together with those below them, for these may be parts of their runs."""
    tree: list[Path] = []
    for folder in folders:
        if tree and not folder.is_relative_to(tree[0]):
            yield tree
            tree = []
        tree.append(folder)
    yield tree


@dataclass
class _Log:
    """What the event files of one directory hold."""

    stretches: list[list[Value]] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    run: dict[str, Any] | None = None
    host: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    notices: list[str] = field(default_factory=list)
    plugins: dict[str, str] = field(default_factory=dict)


def _read(paths: list[Path]) -> _Log:
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto import event_pb2
    except ImportError:
        raise MissingDependencyError(
            "event files are read with the package tensorboard",
            fix="pip install 'metronorm[tensorboard]'",
        ) from None
    log = _Log()
    for path in paths:
        values: list[Value] = []
        file = EventFile(path)
        count = 0
        try:
            for record in file:
                count += 1
                event = event_pb2.Event.FromString(record)
                step, time_ns = event.step, round(event.wall_time * 1e9)
                for value in event.summary.value:
                    if value.HasField("simple_value"):
                        values.append((step, time_ns, value.tag, value.simple_value))
                    else:
                        _take(log, values, value, step, time_ns)
        except (DecodeError, KeyError, OverflowError, TypeError, ValueError):
            raise DataError(
                "an event file must hold TensorBoard's events", got=f"{path}, record {count}"
            ) from None
        if not count and file.unread:
            raise DataError("an event file must be readable", got=f"a damaged one, {path}")
        if file.unread:
            log.notices.append(
                f"{path.name}: the last {file.unread:,} bytes are cut off or damaged, and were "
                "left out"
            )
        if values:
            log.stretches.append(values)
            log.tags.update({value[2] for value in values})
            log.host = log.host or _host(path)
    log.stretches.sort(key=lambda values: values[0][1])
    return log


def _take(log: _Log, values: list[Value], value: Any, step: int, time_ns: int) -> None:
    """One summary that is no plain number."""
    kind, tag = value.WhichOneof("value"), value.tag
    plugin = value.metadata.plugin_data.plugin_name or log.plugins.get(tag, "")
    log.plugins[tag] = plugin  # only a tag's first summary must say it
    if plugin == PLUGIN and tag == EXACT_TAG:
        exact = value.tensor.double_val  # of the scalars just before it
        begin = len(values) - len(exact)
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
            told = json.loads(text)
            log.name, log.run = str(told["name"]), dict(told["config"])
        else:
            fields = {"tag": tag, "text": text, "step": step}
            log.events.append(Event("text", time_ns, fields))
    elif kind == "histo":
        log.events.append(Event("histogram", time_ns, histogram(value.histo, tag, step)))
    elif plugin == "histograms" and kind == "tensor":
        log.events.append(Event("histogram", time_ns, buckets(value.tensor, tag, step)))
    elif plugin == "hparams":
        log.config.update(hyperparameters(value.metadata.plugin_data.content))
    else:
        log.left_out[plugin or kind or "summaries"] += 1


def _host(path: Path) -> str | None:
    """The host in `events.out.tfevents.TIME.HOST.PROCESS.NUMBER`."""
    parts = path.name.partition("tfevents.")[2].split(".")
    return ".".join(parts[1:-2]) or None


def _take_in(logs: dict[Path, _Log]) -> None:
    """Put what `add_scalars` wrote to a directory for each of its tags back into its run."""
    for folder in list(logs):
        above = next((parent for parent in folder.parents if parent in logs), None)
        log = logs[folder]
        if above is None or folder == above or len(log.tags) != 1 or log.events or log.config:
            continue
        (main,) = log.tags
        prefix = main.replace("/", "_") + "_"
        below = folder.relative_to(above).as_posix()
        tag = f"{main}/{below.removeprefix(prefix)}"
        whole = logs[above]
        if below.startswith(prefix) and tag not in whole.tags:
            whole.stretches += [
                [(step, time_ns, tag, value) for step, time_ns, _, value in values]
                for values in log.stretches
            ]
            whole.stretches.sort(key=lambda values: values[0][1])
            whole.tags.add(tag)
            whole.notices += log.notices
            whole.host = whole.host or log.host
            del logs[folder]


def _arrange(log: _Log, source: Path) -> Imported:
    run = Imported(
        "tensorboard",
        source,
        config=log.config,
        events=log.events,
        notices=log.notices,
        host=log.host,
    )
    latest = 0
    for values in log.stretches:
        run.history.extend(values, beside=values[0][1] < latest)
        latest = max(latest, values[-1][1])
    if log.left_out:
        counts = ", ".join(f"{count:,} of {kind}" for kind, count in log.left_out.most_common())
        run.notices.append(f"summaries left out that no run holds: {counts}")
    if log.run is not None:
        run.name, run.config = log.name, log.run
        run.restore = _restore
    return run


def _restore(record: TickRecord) -> None:
    """Take what `export_tensorboard` wrote beside metrics as what it was."""
    metrics = record.metrics
    for found in [PHASE_TAG.fullmatch(name) for name in metrics]:
        if found:
            record.phases[found[1]] = round(float(metrics.pop(found[0])) * 1e9)
    if WALL_TAG in metrics:
        record.wall_ns = round(float(metrics.pop(WALL_TAG)) * 1e9)
    record.beats = int(metrics.pop(BEATS_TAG, 1))
