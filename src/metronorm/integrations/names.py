"""Names of other trackers' values as names of metrics, and back.

What cannot be a metric's name (empty, `tick`, `rank`, `attempt`, `beats`, anything that ends in
`_ns`, all in any case) gets an underscore at its end. So do names that would be mistaken for such a
one (`tick_` becomes `tick__`), which makes it reversible, and the later of two names that differ
in upper and lower case only, which SQL could not tell apart.
"""

from __future__ import annotations

import re

from metronorm.store.schema import RESERVED_METRICS

# what `export_tensorboard` writes beside metrics, and `import_tensorboard` takes back
PLUGIN = "metronorm"
RUN_TAG, EXACT_TAG = "metronorm/run", "metronorm/exact"
WALL_TAG, GC_TAG, BEATS_TAG = "tick/wall_seconds", "tick/gc_seconds", "tick/beats"
PHASE_TAG = re.compile("phase/(.+)_seconds")


class MetricNames:
    """The names of one run, in the order they come in."""

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
        # what no column's name can hold
        metric = tag.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        if _refused(metric.rstrip("_")):
            metric += "_"
        while metric.lower() in self._taken:
            metric += "_"
        self._taken.add(metric.lower())
        self._metrics[tag] = metric
        return metric


def tag_of(metric: str) -> str:
    """The name that `MetricNames` made this one of: `tick` for `tick_`."""
    return metric[:-1] if metric[-1:] == "_" and _refused(metric.rstrip("_")) else metric


def _refused(name: str) -> bool:
    lower = name.lower()
    return not lower or lower in RESERVED_METRICS or lower.endswith("_ns")
