"""The undocumented names of the package tensorboard still do what is needed; read in 2.21."""

import sys
from pathlib import Path

import numpy as np
import pytest

from metronorm.errors import MissingDependencyError
from metronorm.integrations import _tensorboard
from metronorm.integrations._packages import needs

from .event_files import write


def test_messages_are_written_and_read() -> None:
    made = _tensorboard.messages()
    metadata = made.SummaryMetadata(plugin_data=made.SummaryMetadata.PluginData(plugin_name="text"))
    value = made.Summary.Value(
        tag="a", metadata=metadata, tensor=made.TensorProto(dtype=2, double_val=[0.1])
    )
    histogram = made.Summary.Value(
        tag="h", histo=made.HistogramProto(num=3, bucket_limit=[1.0, 2.0], bucket=[0, 3])
    )
    event = made.Event(step=3, wall_time=1.5, summary=made.Summary(value=[value, histogram]))
    read = made.Event.FromString(event.SerializeToString())
    assert (read.WhichOneof("what"), read.step, read.wall_time) == ("summary", 3, 1.5)
    one, other = read.summary.value
    assert (one.tag, one.WhichOneof("value")) == ("a", "tensor")
    assert one.metadata.plugin_data.plugin_name == "text"
    assert _tensorboard.as_array(one.tensor).item() == 0.1
    assert list(other.histo.bucket) == [0, 3]


def test_a_tensor_of_every_shape_is_an_array() -> None:
    from tensorboard.util.tensor_util import make_tensor_proto

    wanted = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(_tensorboard.as_array(make_tensor_proto(wanted)), wanted)


def test_hyperparameters_of_a_session() -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = HParamsPluginData()
    content.session_start_info.hparams["lr"].number_value = 0.5
    content.session_start_info.hparams["name"].string_value = "a"
    found = _tensorboard.session_hyperparameters(content.SerializeToString())
    assert found == {"lr": 0.5, "name": "a"}


def test_an_event_file_of_tensorboards_writer_has_an_event_for_its_version(tmp_path: Path) -> None:
    from metronorm.integrations.importing.event_file import EventFile

    path = write(tmp_path, [("a", 1.0, 0, 100.0)])
    events = [_tensorboard.messages().Event.FromString(record) for record in EventFile(path)]
    assert [event.WhichOneof("what") for event in events] == ["file_version", "summary"]
    assert events[0].file_version == "brain.Event:2"


def test_a_missing_package_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        pytest.raises(MissingDependencyError, match="this needs the package prometheus_client"),
        needs("prometheus_client", fix="pip install prometheus_client"),
    ):
        import prometheus_client  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needs("other", fix=""):
        import no_such_module  # type: ignore[import-not-found] # noqa: F401
