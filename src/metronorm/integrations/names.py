"""Turns the names of other trackers' values into names of metrics, and back.

| name (in upper or lower case) | metric |
| --- | --- |
| a metric cannot have it: empty, `tick`, `rank`, `attempt`, `beats`, `..._ns` | `tick_` |
| it looks like the row above: `tick_` | `tick__`, so that the way back is unique |
| it differs from an earlier name only in case, which SQL ignores: `Loss` after `loss` | `Loss_` |
"""

from __future__ import annotations

import re

from metronorm.store.schema import RESERVED_METRICS

# What `export_tensorboard` writes beside metrics, and `import_tensorboard` reads again.
PLUGIN = "metronorm"
RUN_TAG, EXACT_TAG = "metronorm/run", "metronorm/exact"
WALL_TAG, GC_TAG, BEATS_TAG = "tick/wall_seconds", "tick/gc_seconds", "tick/beats"
PHASE_TAG = re.compile("phase/(.+)_seconds")


class MetricNames:
    """The metrics' names of one run, by the tracker's names, in the order of their first use."""

    def __init__(self) -> None:
        self._metrics: dict[str, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, tag: str) -> str:
        metric = self._metrics.get(tag)
        return self._add(tag) if metric is None else metric

    def __len__(self) -> int:
        return len(self._metrics)

    def __contains__(self, tag: str) -> bool:
        return tag in self._metrics

    def _add(self, tag: str) -> str:
        # a column's name cannot hold a zero byte, or half a surrogate pair
        metric = tag.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        if _is_refused(metric.rstrip("_")):
            metric += "_"
        while metric.lower() in self._taken:
            metric += "_"
        self._taken.add(metric.lower())
        self._metrics[tag] = metric
        return metric


def tag_of(metric: str) -> str:
    """Return the name that `MetricNames` made this metric's name from: `tick` for `tick_`."""
    return metric[:-1] if metric[-1:] == "_" and _is_refused(metric.rstrip("_")) else metric


def _is_refused(name: str) -> bool:
    lower = name.lower()
    return not lower or lower in RESERVED_METRICS or lower.endswith("_ns")
