"""TensorBoard's own reading of what is in event files, to compare with."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

Scalars = dict[tuple[str, int], float]


def scalars(directory: Path) -> Scalars:
    """The scalars of a log, by run, tag and step, the last of each; `run/tag` for a run."""
    multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 0})
    multiplexer.AddRunsFromDirectory(str(directory)).Reload()
    found: Scalars = {}
    for run in multiplexer.Runs():
        for tag in multiplexer.PluginRunToTagToContent("scalars").get(run, {}):
            name = tag if run == "." else f"{run}/{tag}"
            for event in multiplexer.Tensors(run, tag):
                found[name, event.step] = tensor_util.make_ndarray(event.tensor_proto).item()
    return found


def write(directory: Path, values: Iterable[tuple[str, float, int, float]]) -> Path:
    """An event file with tag, value, step and time in seconds of each scalar; its path."""
    before = set(directory.glob("*"))
    writer = EventFileWriter(str(directory))
    for tag, value, step, seconds in values:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.add_event(Event(step=step, wall_time=seconds, summary=summary))
    writer.close()
    (path,) = set(directory.glob("*")) - before
    return path


def same(one: Any, other: Any) -> bool:
    """Equal, and NaN equal to NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)
