"""What this package uses of the package tensorboard; its documentation has none of these names.

Read in TensorBoard 2.21; `tests/integrations/test_private.py` fails when one of them has changed.
The public ways do not serve: the `SummaryWriter`s of torch and TensorFlow take seconds to load, and
TensorBoard's own readers keep a sample of the values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from metronorm.integrations._packages import needs


class Messages(NamedTuple):
    """The classes of the messages in event files."""

    Event: Any
    SessionLog: Any
    Summary: Any
    SummaryMetadata: Any
    HistogramProto: Any
    TensorProto: Any


def messages() -> Messages:
    """Return the classes of the messages (`tensorboard.compat.proto`).

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """
    fix = "pip install 'metronorm[tensorboard]'"
    with needs("tensorboard", "google", what="an event file", fix=fix):
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2

    return Messages(
        event_pb2.Event,
        event_pb2.SessionLog,
        summary_pb2.Summary,
        summary_pb2.SummaryMetadata,
        summary_pb2.HistogramProto,
        tensor_pb2.TensorProto,
    )


def as_array(tensor: Any) -> Any:
    """Return the NumPy array in a `TensorProto` (`tensorboard.util.tensor_util`)."""
    from tensorboard.util import tensor_util

    return tensor_util.make_ndarray(tensor)


def session_hyperparameters(content: bytes) -> dict[str, Any]:
    """Return the hyperparameters that a session of the plug-in hparams was started with."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    given = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()}
