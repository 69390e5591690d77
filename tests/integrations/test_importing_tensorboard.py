from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from metronorm.errors import DataError, RunError
from metronorm.integrations.exporting import export_tensorboard
from metronorm.integrations.importing import import_run, import_tensorboard
from metronorm.integrations.importing.event_file import EventFile, masked_crc32c
from metronorm.runs import open_run
from tests.integrations.event_files import write
from tests.integrations.rows import events, ticks


def test_every_scalar_with_its_time(tmp_path: Path) -> None:
    write(tmp_path / "log", [("loss", 1.0 / (step + 1), step, 100 + step / 4) for step in range(3)])
    assert import_tensorboard(tmp_path / "log", tmp_path / "run") == [tmp_path / "run"]
    found = ticks(tmp_path / "run", "tick", "time_ns", "wall_ns", "beats", "loss")
    assert found == [
        (0, 100_000_000_000, 0, 1, 1.0),
        (1, 100_250_000_000, 250_000_000, 1, 0.5),
        (2, 100_500_000_000, 250_000_000, 1, float(np.float32(1 / 3))),
    ]
    run = open_run(tmp_path / "run")
    assert run.info.config["imported"]["format"] == "tensorboard"
    assert run.info.config["imported"]["source"] == str(tmp_path / "log")
    assert run.info.created_ns == 100_000_000_000
    assert (run.info.command, run.info.git, run.info.versions) == ([], None, {})
    assert (run.info.name, run.notices(), events(tmp_path / "run", "notice")) == ("run", [], [])
    assert events(tmp_path / "run", "end") == [{"at": 2}]


def test_no_value_is_sampled_away(tmp_path: Path) -> None:
    write(tmp_path / "log", [("a", float(step), step, step) for step in range(20_000)])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert ticks(tmp_path / "run", "tick", "a") == [(step, step) for step in range(20_000)]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("new_style", [False, True])
def test_scalars_of_torch(tmp_path: Path, new_style: bool, double: bool) -> None:
    wanted = [0.1, float("nan"), float("-inf"), 1e-42]
    with SummaryWriter(tmp_path / "log") as writer:
        for step, value in enumerate(wanted):
            options: dict[str, Any] = {"new_style": new_style, "double_precision": double}
            writer.add_scalar("a", value, step, **options)
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    found = [value for (value,) in ticks(tmp_path / "run", "a")]
    exact = new_style and double
    np.testing.assert_array_equal(found, wanted if exact else np.float32(wanted).astype(float))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint8"])
def test_scalars_of_tensorflow(tmp_path: Path, dtype: str) -> None:
    """As `tf.summary.scalar` writes them: only the first one says what plug-in it is for."""
    writer = EventFileWriter(str(tmp_path / "log"))
    for step in range(3):
        tensor = tensor_util.make_tensor_proto(np.array(step + 2, dtype))
        value = Summary.Value(tag="a", tensor=tensor)
        if step == 0:
            plugin = SummaryMetadata.PluginData(plugin_name="scalars")
            value.metadata.CopyFrom(SummaryMetadata(plugin_data=plugin))
        writer.add_event(Event(step=step, wall_time=step, summary=Summary(value=[value])))
    writer.close()
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert ticks(tmp_path / "run", "tick", "a") == [(0, 2.0), (1, 3.0), (2, 4.0)]


def test_a_restart_is_a_new_attempt(tmp_path: Path) -> None:
    write(tmp_path / "log", [("loss", 0.0, step, step) for step in range(10)])
    write(tmp_path / "log", [("loss", 1.0, step, 100 + step) for step in range(7, 12)])
    write(tmp_path / "log", [("loss", 2.0, step, 200 + step) for step in range(12, 14)])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert run.attempts == [0, 1]
    found = ticks(tmp_path / "run", "attempt", "tick", "loss")
    assert found[:8] == [*((0, step, 0.0) for step in range(7)), (1, 7, 1.0)]
    assert found[-2:] == [(1, 12, 2.0), (1, 13, 2.0)]
    assert len(ticks(tmp_path / "run", "loss", history="full")) == 17


def test_writers_at_the_same_time_are_one_attempt(tmp_path: Path) -> None:
    write(tmp_path / "log", [("train", float(step), step, step) for step in range(10)])
    write(tmp_path / "log", [("test", float(step), step, step + 0.5) for step in range(0, 10, 3)])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert open_run(tmp_path / "run").attempts == [0]
    assert ticks(tmp_path / "run", "tick", "train", "test")[:4] == [
        (0, 0.0, 0.0),
        (1, 1.0, None),
        (2, 2.0, None),
        (3, 3.0, 3.0),
    ]


def test_directories_are_runs_as_in_tensorboard(tmp_path: Path) -> None:
    for name in ("train", "validation", "deeper/down"):
        write(tmp_path / "logs" / name, [("epoch_loss", 1.0, 0, 0.0), ("other", 1.0, 0, 0.0)])
    made = import_tensorboard(tmp_path / "logs", tmp_path / "runs")
    runs = tmp_path / "runs"
    assert made == [runs / "deeper" / "down", runs / "train", runs / "validation"]
    assert [open_run(path).info.name for path in made] == ["deeper/down", "train", "validation"]
    assert ticks(runs / "train", "epoch_loss", "other") == [(1.0, 1.0)]


def test_a_run_with_runs_below_it(tmp_path: Path) -> None:
    write(tmp_path / "logs", [("a", 1.0, 0, 0.0)])
    write(tmp_path / "logs" / "below", [("b", 1.0, 0, 0.0), ("c", 1.0, 0, 0.0)])
    made = import_tensorboard(tmp_path / "logs", tmp_path / "runs")
    assert made == [tmp_path / "runs", tmp_path / "runs" / "below"]
    assert ticks(made[0], "a") == ticks(made[1], "b") == [(1.0,)]


def test_one_file(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [("a", 1.0, 0, 0.0)])
    write(tmp_path / "log", [("b", 1.0, 0, 0.0)])
    import_tensorboard(path, tmp_path / "run")
    assert open_run(tmp_path / "run").ticks().metrics == ["a"]


def test_names_that_a_metric_cannot_have(tmp_path: Path) -> None:
    tags = ["tick", "tick_", "rank", "wall_ns", "loss", "Loss", "train/loss", "Ünï '\"; cödé"]
    write(tmp_path / "log", [(tag, 1.0, 0, 0.0) for tag in tags])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    wanted = ["tick_", "tick__", "rank_", "wall_ns_", "loss", "Loss_", *tags[6:]]
    assert open_run(tmp_path / "run").ticks().metrics == wanted


def test_other_summaries_of_torch(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_scalar("loss", 1.0, 3, walltime=50.0)
        writer.add_text("note", "it *works*", 3, walltime=50.0)
        writer.add_histogram("weights", np.array([-1.0, 0.5, 0.6]), 3, walltime=50.0)
        for step in range(2):
            writer.add_image("picture", np.zeros((3, 2, 2)), step, walltime=50.0)
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    (note,) = events(tmp_path / "run", "text")
    assert (note["at"], note["text"]) == (3, "it *works*")
    (weights,) = events(tmp_path / "run", "histogram")
    assert sum(weights["counts"]) == 3
    assert len(weights["edges"]) == len(weights["counts"]) + 1
    for value in (-1.0, 0.5, 0.6):
        assert counted(weights, value) > 0
    assert (weights["min"], weights["max"], weights["sum"]) == (-1.0, 0.6, pytest.approx(0.1))
    (notice,) = events(tmp_path / "run", "notice")
    assert "2 of image" in notice["message"]


def counted(histogram: dict[str, Any], value: float) -> int:
    at = int(np.searchsorted(histogram["edges"], value, side="right")) - 1
    return int(histogram["counts"][at])


def test_hyperparameters_are_the_config(tmp_path: Path) -> None:
    given_ = {"lr": 0.1, "name": "adam", "layers": 3}
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_hparams(given_, {"accuracy": 0.9}, run_name="one")
    (run,) = import_tensorboard(tmp_path / "log", tmp_path / "runs")
    assert run == tmp_path / "runs" / "one"
    config = open_run(run).info.config
    assert {name: config[name] for name in given_} == given_
    assert ticks(run, "accuracy") == [(float(np.float32(0.9)),)]


# --- damage --------------------------------------------------------------------------------------


@settings(max_examples=13, deadline=None)
@given(st.data())
def test_a_file_cut_off_anywhere_keeps_what_is_intact(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = write(folder, [("a", float(step), step, step) for step in range(5)])
    whole = path.read_bytes()
    records = list(EventFile(path))
    ends = [0]
    for record in records:
        ends.append(ends[-1] + 16 + len(record))
    assert ends[-1] == len(whole)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    file = EventFile(path)
    kept = max(number for number, end in enumerate(ends) if end <= cut)
    assert list(file) == records[:kept]
    assert file.unread == cut - ends[kept]
    assert list(RawEventFileLoader(str(path)).Load()) == records[:kept]


@settings(max_examples=13, deadline=None)
@given(st.data())
def test_a_changed_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("changed"), [("a", 1.0, step, 0.0) for step in range(3)])
    whole = bytearray(path.read_bytes())
    records = list(EventFile(path))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    file = EventFile(path)
    found = list(file)
    # of a length, which has a checksum of its own, only one that matters is noticed
    assert found == records[: len(found)]
    assert file.unread or found == records


def test_a_torn_file_makes_a_notice(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [("a", float(step), step, step) for step in range(5)])
    path.write_bytes(path.read_bytes()[:-3])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert ticks(tmp_path / "run", "tick") == [(0,), (1,), (2,), (3,)]
    (notice,) = events(tmp_path / "run", "notice")
    assert path.name in notice["message"]
    assert "cut off or damaged" in notice["message"]


@given(st.binary(max_size=70))
def test_the_checksum_is_tensorboards(data: bytes) -> None:
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


def test_nothing_to_import(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "events.out.tfevents.1").write_bytes(b"no events at all, but bytes")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "events.out.tfevents.1").touch()
    for name, expected in {
        "missing": "no .*missing",
        "empty": "which has none",
        "bytes": "damaged",
        "none": "none in",
    }.items():
        with pytest.raises(DataError, match=expected):
            import_tensorboard(tmp_path / name, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "empty", "none"]


def test_a_log_without_scalars(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "log") as writer:
        writer.add_text("note", "only words", 0)
    with pytest.raises(DataError, match="scalars"):
        import_tensorboard(tmp_path / "log", tmp_path / "run")


def test_records_that_are_not_events_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "log", [("a", 1.0, 0, 0.0)])
    record = b"\xff" * 9
    checksums = [masked_crc32c(data) for data in (len(record).to_bytes(8, "little"), record)]
    length, content = (checksum.to_bytes(4, "little") for checksum in checksums)
    with open(path, "ab") as file:
        file.write(len(record).to_bytes(8, "little") + length + record + content)
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert ticks(tmp_path / "run", "a") == [(1.0,)]
    (notice,) = events(tmp_path / "run", "notice")
    assert "1 of damaged records" in notice["message"]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def a_list(path: Path) -> None:
    path.rename(path.with_name("list-of-tfevents.txt")).write_text("a\nb\n")


@pytest.mark.parametrize("spoil", [cut_off, zeros, a_list])
@pytest.mark.parametrize("below", ["", "other"])
def test_a_bad_file_is_left_out_and_noticed(
    tmp_path: Path, spoil: Any, below: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "log", [("a", 1.0, 0, 0.0)])
    spoil(write(tmp_path / "log" / below, [("b", 2.0, 0, 1.0)]))
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert open_run(tmp_path / "run").ticks().metrics == ["a"]
    (notice,) = events(tmp_path / "run", "notice")
    assert "bytes are cut off or damaged" in notice["message"]
    assert notice["message"] in caplog.text


def test_an_unreadable_file_is_left_out_and_noticed(tmp_path: Path) -> None:
    write(tmp_path / "log", [("a", 1.0, 0, 0.0)])
    (tmp_path / "log" / "tfevents.link").symlink_to("/proc/self/mem")
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    (notice,) = events(tmp_path / "run", "notice")
    assert "tfevents.link cannot be read" in notice["message"]


@pytest.mark.parametrize(("unit", "size"), [("seconds", 1), ("milliseconds", 10**3)])
@pytest.mark.parametrize("finer", [1, 10**3, 10**6])
def test_times_in_other_units_are_recognised(
    tmp_path: Path, unit: str, size: int, finer: int
) -> None:
    scale = size * finer
    write(tmp_path / "log", [("a", 1.0, n, (1_735_689_600 + n) * scale) for n in range(2)])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    begin = 1_735_689_600_000_000_000
    assert ticks(tmp_path / "run", "tick", "time_ns", "a") == [
        (0, begin, 1.0),
        (1, begin + 10**9, 1.0),
    ]
    messages = [notice["message"] for notice in events(tmp_path / "run", "notice")]
    assert len(messages) == (scale > 1)
    assert all("because of their size: 2" in message for message in messages)


@pytest.mark.parametrize("time", [float("nan"), float("inf"), -5.0, 1e10, 1e300])
def test_a_value_without_a_valid_time_has_the_time_of_the_value_before(
    tmp_path: Path, time: float
) -> None:
    write(tmp_path / "log", [("a", 1.0, 0, 100.0), ("a", 2.0, 1, time), ("a", 3.0, 2, 102.0)])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    found = ticks(tmp_path / "run", "tick", "time_ns", "a")
    assert found == [(0, 100 * 10**9, 1.0), (1, 100 * 10**9, 2.0), (2, 102 * 10**9, 3.0)]
    (notice,) = events(tmp_path / "run", "notice")
    assert "times left out that are not between 1970 and 2262: 1" in notice["message"]


@pytest.mark.parametrize(("purge", "begin"), [(5, 10), (5, 5), (0, 10), (10, 10)])
def test_purge_step_is_read_as_tensorboard_reads_it(tmp_path: Path, purge: int, begin: int) -> None:
    with SummaryWriter(tmp_path / "log") as writer:
        for step in range(10):
            writer.add_scalar("a", step, step, walltime=step)
    (tmp_path / "log").rename(tmp_path / "first")
    with SummaryWriter(tmp_path / "log", purge_step=purge) as writer:
        for step in (begin, begin + 1):
            writer.add_scalar("a", -step, step, walltime=100 + step)
    for path in (tmp_path / "first").iterdir():  # each name has the second it was made in
        path.rename(tmp_path / "log" / f"events.out.tfevents.1.{path.name}")
    theirs = EventAccumulator(str(tmp_path / "log"), size_guidance={"scalars": 0})
    theirs.Reload()
    wanted = [(event.step, event.value) for event in theirs.Scalars("a")]
    assert [step for step, _ in wanted] == [*range(purge), begin, begin + 1]
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert ticks(tmp_path / "run", "tick", "a") == wanted
    gone = min(begin, 10) - purge
    assert len(ticks(tmp_path / "run", "tick", history="full")) == 12 - gone
    messages = [notice["message"] for notice in events(tmp_path / "run", "notice")]
    assert len(messages) == (gone > 0)
    assert all(f"replaced them: {gone}" in message for message in messages)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
def test_a_phase_that_is_not_a_time_stays_a_metric(tmp_path: Path, seconds: float) -> None:
    """As in an export of ours that another tool has written to."""
    write(tmp_path / "log", [("loss", 1.0, 0, 1.0)])
    import_tensorboard(tmp_path / "log", tmp_path / "first")
    export_tensorboard(tmp_path / "first", tmp_path / "exported")
    tags = ["phase/x_seconds", "tick/wall_seconds", "tick/beats"]
    write(tmp_path / "exported", [(tag, seconds, 1, 2.0) for tag in tags])
    import_tensorboard(tmp_path / "exported", tmp_path / "run")
    assert open_run(tmp_path / "run").ticks().metrics == ["loss", *tags]
    assert ticks(tmp_path / "run", "tick", "loss") == [(0, 1.0), (1, None)]


def test_a_directory_that_is_not_empty_does_not_change(tmp_path: Path) -> None:
    write(tmp_path / "log", [("a", 1.0, 0, 0.0)])
    import_tensorboard(tmp_path / "log", tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(RunError, match="not empty"):
        import_tensorboard(tmp_path / "log", tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be readable"):
        import_tensorboard("/proc/self/mem", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_files_show_the_kind(tmp_path: Path) -> None:
    write(tmp_path / "log" / "below", [("a", 1.0, 0, 0.0)])
    assert import_run(tmp_path / "log", tmp_path / "run") == [tmp_path / "run" / "below"]
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="whose name is none of theirs"):
        import_run(tmp_path / "other", tmp_path / "else")
    with pytest.raises(DataError, match="must exist"):
        import_run(tmp_path / "nowhere", tmp_path / "else")
