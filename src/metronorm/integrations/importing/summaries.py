"""TensorBoard's summaries as plain numbers and JSON."""

from __future__ import annotations

from array import array
from typing import Any

from metronorm.integrations._tensorboard import as_array

_FLOAT = 1  # of the enumeration DataType
_NUMBERS = "fiubV"  # kinds of NumPy's dtypes; V is bfloat16


def number(tensor: Any) -> float | None:
    """Return the one number in a `TensorProto`; None if it holds anything else."""
    if tensor.dtype == _FLOAT:
        floats = tensor.float_val or array("f", tensor.tensor_content)
        return floats[0] if len(floats) == 1 else None
    numbers = as_array(tensor)
    return float(numbers.item()) if numbers.size == 1 and numbers.dtype.kind in _NUMBERS else None


def histogram(proto: Any, tag: str, step: int) -> dict[str, Any]:
    """Return the fields of the event for a `HistogramProto`."""
    edges, counts = list(proto.bucket_limit), list(proto.bucket)
    if counts and not counts[0]:  # torch puts an empty bucket first; its limit is the first edge
        counts = counts[1:]
    else:
        edges = [proto.min, *edges]
    moments = {name: getattr(proto, name) for name in ("min", "max", "sum", "sum_squares")}
    return {"tag": tag, "step": step, "edges": edges, "counts": counts} | moments


def buckets(tensor: Any, tag: str, step: int) -> dict[str, Any]:
    """Return the fields of the event for TensorFlow 2's histogram: (left, right, count) rows."""
    rows = as_array(tensor).reshape(-1, 3).tolist()
    edges = [row[0] for row in rows] + [row[1] for row in rows[-1:]]
    return {"tag": tag, "step": step, "edges": edges, "counts": [row[2] for row in rows]}
