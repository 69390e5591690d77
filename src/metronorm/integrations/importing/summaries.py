"""What TensorBoard's summaries hold, in plain numbers and JSON."""

from __future__ import annotations

from array import array
from typing import Any

_FLOAT = 1  # of the enumeration DataType
_NUMBERS = "fiubV"  # kinds of NumPy's; V is bfloat16


def number(tensor: Any) -> float | None:
    """The one number in a `TensorProto`; None if it holds something else."""
    if tensor.dtype == _FLOAT:
        floats = tensor.float_val or array("f", tensor.tensor_content)
        return floats[0] if len(floats) == 1 else None
    from tensorboard.util import tensor_util

    numbers = tensor_util.make_ndarray(tensor)
    return float(numbers.item()) if numbers.size == 1 and numbers.dtype.kind in _NUMBERS else None


def histogram(proto: Any, tag: str, step: int) -> dict[str, Any]:
    """Fields of the event for a `HistogramProto`."""
    edges, counts = list(proto.bucket_limit), list(proto.bucket)
    if counts and not counts[0]:  # torch puts an empty one first, whose limit is the first edge
        counts = counts[1:]
    else:
        edges = [proto.min, *edges]
    return {
        "tag": tag,
        "step": step,
        "edges": edges,
        "counts": counts,
        "min": proto.min,
        "max": proto.max,
        "sum": proto.sum,
        "sum_squares": proto.sum_squares,
    }


def buckets(tensor: Any, tag: str, step: int) -> dict[str, Any]:
    """Fields of the event for a histogram of TensorFlow 2: left edges, right edges and counts."""
    from tensorboard.util import tensor_util

    rows = tensor_util.make_ndarray(tensor).reshape(-1, 3).tolist()
    edges = [row[0] for row in rows] + [row[1] for row in rows[-1:]]
    return {"tag": tag, "step": step, "edges": edges, "counts": [row[2] for row in rows]}


def hyperparameters(content: bytes) -> dict[str, Any]:
    """What a session of the plug-in hparams was started with."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    given = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()}
