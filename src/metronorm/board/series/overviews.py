"""Where the time of ticks goes: phases, tick times, ranks and layers, over buckets of ticks.

A bucket holds a power of two of ticks and begins at a multiple of it, wherever the view begins: a
live picture grows at its end and does not wobble.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metronorm.board.series._arrays import is_missing
from metronorm.board.series.reduced import Column
from metronorm.store.schema import UNATTRIBUTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.board.series._arrays import Floats, Integers
    from metronorm.board.series.recorded import Rows
    from metronorm.board.series.tracks import Points
    from metronorm.runs import Table

UNATTRIBUTED_NS = f"{UNATTRIBUTED}_ns"
_BINS_PER_OCTAVE, _MOST_BINS = 8, 48


class Buckets(NamedTuple):
    """Buckets of ticks: each begins at a value of `begins` and holds `size` of them.

    The rows of the bucket number n are those from `edges[n]` on and before `edges[n + 1]`.
    """

    begins: Floats
    size: int
    edges: Integers


def buckets(ticks: Integers, begin: float, end: float, most: int) -> Buckets:
    """At most so many buckets that cover a view, those at its edges as a whole.

    Args:
        ticks: the numbers of the ticks, in order.
        begin: where the view begins.
        end: where it ends.
        most: the number of buckets that fit in it.
    """
    if len(ticks):  # a view may reach far beyond the run
        begin, end = max(begin, float(ticks[0])), min(end, float(ticks[-1]))
    size = 1 << max(math.ceil(math.log2(max(end - begin, 1) / max(most, 1))), 0)
    first, last = math.floor(begin / size), math.floor(max(end, begin) / size)
    begins = np.arange(first, last + 2) * size
    edges = np.searchsorted(ticks, begins)
    return Buckets(begins[:-1].astype(float), size, edges)


def _sums(values: Floats, edges: Integers) -> Floats:
    """The sum of each bucket."""
    within = np.append(values[: edges[-1]], 0.0)
    sums: Floats = np.where(np.diff(edges) > 0, np.add.reduceat(within, edges[:-1]), 0.0)
    return sums


def phase_times(rows: Rows, phases: Sequence[str], cut: Buckets) -> list[Column]:
    """The mean time of each phase in ns a tick, over the ticks whose phases were measured.

    So the phases of a bucket add up to the mean time of these ticks. `max` is its longest tick.
    """
    names = [f"{phase}_ns" for phase in phases]
    rows.load([*names, UNATTRIBUTED_NS])
    whole = slice(0, int(cut.edges[-1]))
    measured = ~is_missing(rows.column(UNATTRIBUTED_NS)[whole])
    counts = _sums(measured.astype(float), cut.edges)
    found = [Column("x", cut.begins)]
    with np.errstate(invalid="ignore", divide="ignore"):
        for phase, name in zip(phases, names, strict=True):
            spent = np.nan_to_num(rows.column(name)[whole])
            found.append(Column("y", _sums(spent, cut.edges) / counts, name=phase))
    wall = np.append(rows.column("wall_ns")[whole], 0.0)
    longest = np.maximum.reduceat(wall, cut.edges[:-1])
    found.append(Column("max", np.where(np.diff(cut.edges) > 0, longest, np.nan)))
    return found


def tick_times(rows: Rows, cut: Buckets) -> list[Column]:
    """How many ticks of each bucket took how long: `count[bucket * bins + bin]`.

    `edges` are the edges of the bins in ns, whole powers of a root of two.
    """
    inside = slice(int(cut.edges[0]), int(cut.edges[-1]))
    octaves = np.log2(np.maximum(rows.base("wall_ns")[inside], 1))
    fine = _BINS_PER_OCTAVE
    while True:
        bins = np.floor(octaves * fine).astype(np.int64)
        lowest = int(bins.min()) if len(bins) else 0
        count = int(bins.max()) - lowest + 1 if len(bins) else 0
        if count <= _MOST_BINS or fine == 1:
            break
        fine //= 2
    bucket = np.repeat(np.arange(len(cut.begins)), np.diff(cut.edges))
    counts = np.bincount(bucket * count + bins - lowest, minlength=len(cut.begins) * count)
    edges = 2.0 ** (np.arange(lowest, lowest + count + 1) / fine) if count else np.empty(0)
    return [
        Column("x", cut.begins),
        Column("edges", edges),
        Column("count", counts.astype(np.int32)),
    ]


def layers(tracks: Sequence[Points], ticks: Integers, cut: Buckets) -> list[Column]:
    """The highest value of each track in each bucket: `value[track * buckets + bucket]`.

    NaN where a track has no finite value.
    """
    # from rows to points: a metric need not be logged at every tick
    places = np.append(ticks, np.iinfo(np.int64).max)[cut.edges].astype(float)
    found = []
    for points in tracks:
        at = points.finite_before(np.searchsorted(points.x, places))
        some = at[:-1] < at[1:]
        values = np.full(len(cut.begins), np.nan)
        values[some] = points.levels.extremes(points.finite, at[:-1][some], at[1:][some])[1]
        found.append(values)
    return [Column("x", cut.begins), Column("value", np.concatenate([np.empty(0), *found]))]


def norm_numbers(metrics: Sequence[str]) -> dict[str, list[str]]:
    """Of metrics `norm.LAYER.NUMBER`: the layers that have each number."""
    found: dict[str, list[str]] = {}
    for name in metrics:
        first, _, rest = name.partition(".")
        layer, _, number = rest.rpartition(".")
        if first == "norm" and layer:
            found.setdefault(number, []).append(layer)
    return found


def rank_times(ticks: Table, ranks: Sequence[int], column: str, cut: Buckets) -> list[Column]:
    """The mean of a column for each rank and bucket: `value[rank * buckets + bucket]`.

    By SQL, as the columns of many ranks cannot all be kept. NaN where nothing is known.
    """
    found = np.full((len(ranks), len(cut.begins)), np.nan)
    if column in ticks.columns and len(cut.begins):
        first, last = int(cut.begins[0]), int(cut.begins[-1]) + cut.size - 1
        rows = ticks.only("rank", "tick", column).fetch(
            f"""select rank, tick // {cut.size}, avg({column}) from ticks
                where tick between {first} and {last} and {column} is not null group by 1, 2"""
        )
        for rank, number, mean in rows:
            if rank in ranks:
                found[ranks.index(rank), number - first // cut.size] = mean
    return [
        Column("x", cut.begins),
        Column("rank", np.array(ranks, np.int32)),
        Column("value", found.ravel()),
    ]
