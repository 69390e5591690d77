"""Histograms of tensors and arrays, in TensorBoard's buckets."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence


def histogram(
    values: Any, bins: str | Sequence[float] = "tensorflow", max_bins: int | None = None
) -> dict[str, Any]:
    """Edges, counts and moments of all elements; empty buckets at both ends are left out.

    Args:
        values: a tensor on whatever device, an array, or nested lists.
        bins: `"tensorflow"` (buckets that grow by a tenth, on both sides of zero), another of the
            names that `numpy.histogram` knows, or edges.
        max_bins: neighbouring buckets are put together until there are no more than about so many.

    Returns:
        `edges`, one more than `counts`, and `min`, `max`, `sum`, `sum_squares`; `not_finite`, the
        number of elements that are NaN or infinite and in none of these, if there are any.

    Raises:
        ConfigError: no finite element, or no such bins.
        MissingDependencyError: NumPy is not installed.
    """
    try:
        import numpy as np
    except ImportError:
        raise MissingDependencyError(
            "histograms need the package numpy", fix="pip install 'metronorm[analysis]'"
        ) from None
    if hasattr(values, "detach"):  # bfloat16 is a type that NumPy does not have
        values = values.detach().cpu().double()
    every = np.asarray(values, dtype=np.float64).reshape(-1)
    finite = every[np.isfinite(every)]
    if not finite.size:
        raise ConfigError("a histogram needs finite elements", got=f"none of {every.size}")
    growing = isinstance(bins, str) and bins == "tensorflow"
    try:
        counts, edges = np.histogram(finite, bins=_growing() if growing else bins)
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
def _growing() -> list[float]:
    edges = []
    edge = 1e-12
    while edge < 1e20:
        edges.append(edge)
        edge *= 1.1
    return [*(-edge for edge in reversed(edges)), 0.0, *edges]
