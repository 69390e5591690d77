"""Histograms of tensors and arrays, in TensorBoard's buckets."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError
from metronorm.integrations._packages import needs

if TYPE_CHECKING:
    from collections.abc import Sequence


def histogram(
    values: Any, bins: str | Sequence[float] = "tensorflow", max_bins: int | None = None
) -> dict[str, Any]:
    """Count all elements in buckets; empty buckets at both ends are left out.

    Args:
        values: a tensor on any device, an array, or nested lists, of any shape.
        bins: `"tensorflow"` (every bucket is 10 % wider than the one before, on both sides of
            zero), another name that `numpy.histogram` knows, or edges.
        max_bins: the largest number of buckets, roughly; neighbours are joined until it holds.

    Returns:
        `edges`, one more than `counts`, and `min`, `max`, `sum`, `sum_squares`. If there are
        elements that are NaN or infinite, `not_finite` is their number; nothing else counts them.

    Raises:
        ConfigError: no element is finite, or the bins do not exist or do not fit.
        MissingDependencyError: NumPy is not installed.
    """
    with needs("numpy", what="a histogram", fix="pip install 'metronorm[analysis]'"):
        import numpy as np
    if hasattr(values, "detach"):  # a tensor; NumPy has no bfloat16
        values = values.detach().cpu().double()
    every = np.asarray(values, dtype=np.float64).reshape(-1)
    finite = every[np.isfinite(every)]
    if not finite.size:
        raise ConfigError("a histogram needs finite elements", got=f"none of {every.size}")
    is_default = isinstance(bins, str) and bins == "tensorflow"
    try:
        counts, edges = np.histogram(finite, bins=_tensorflow_edges() if is_default else bins)
    except (TypeError, ValueError) as error:
        raise ConfigError("a histogram needs bins for its elements", got=str(error)) from None
    if max_bins is not None and len(counts) > max_bins:
        size = len(counts) // max_bins
        counts = np.add.reduceat(counts, np.arange(0, len(counts), size))
        edges = np.append(edges[:-1:size], edges[-1])
    (filled,) = counts.nonzero()
    if filled.size:
        begin, end = filled[0], filled[-1] + 1
        counts, edges = counts[begin:end], edges[begin : end + 1]
    with np.errstate(over="ignore"):
        found = {
            "edges": edges.tolist(),
            "counts": counts.tolist(),
            "min": finite.min().item(),
            "max": finite.max().item(),
            "sum": finite.sum().item(),
            "sum_squares": finite.dot(finite).item(),
        }
    if finite.size < every.size:
        found["not_finite"] = every.size - finite.size
    return found


@cache
def _tensorflow_edges() -> list[float]:
    edges = []
    edge = 1e-12
    while edge < 1e20:
        edges.append(edge)
        edge *= 1.1
    return [*(-edge for edge in reversed(edges)), 0.0, *edges]
