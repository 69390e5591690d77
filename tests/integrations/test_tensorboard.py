import gc
import os
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils import tensorboard as theirs
from torch.utils.tensorboard.summary import make_histogram

from metronorm.errors import ConfigError
from metronorm.integrations.exporting import export_tensorboard
from metronorm.integrations.histogram import histogram
from metronorm.integrations.importing import import_tensorboard
from metronorm.integrations.tensorboard import SummaryWriter
from metronorm.runs import open_run
from tests.clock.virtual import VirtualTime
from tests.integrations.event_files import same, scalars
from tests.integrations.rows import events, ticks


def test_scalars_of_a_step_are_one_record(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run", config={"lr": 0.1}) as writer:
        for step in range(3):
            writer.add_scalar("loss/train", 1.0 / (step + 1), step)
            writer.add_scalar("lr", torch.tensor(0.5), global_step=torch.tensor(step))
    found = ticks(tmp_path / "run", "tick", "loss/train", "lr")
    assert found == [(0, 1.0, 0.5), (1, 0.5, 0.5), (2, 1 / 3, 0.5)]
    assert open_run(tmp_path / "run").info.config == {"lr": 0.1}


def test_a_record_lasts_from_the_last_scalar_before_it_to_its_own_last_scalar(
    tmp_path: Path,
) -> None:
    now = VirtualTime()
    with SummaryWriter(tmp_path / "run", now=now) as writer:
        for step, computing in ((0, 5), (10, 100), (20, 70)):
            now.pass_(computing)
            writer.add_scalar("loss", 1.0, step)
            now.pass_(7)
            writer.add_scalar("accuracy", 1.0, step)
        now.pass_(1_000_000)  # evaluating, after the last step
    assert ticks(tmp_path / "run", "tick", "wall_ns") == [(0, 7), (10, 107), (20, 77)]


def test_walltime_is_the_time_of_the_record(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        for step in range(3):
            writer.add_scalar("loss", 1.0, step, walltime=1e9 + step)
    rows = ticks(tmp_path / "run", "time_ns", "wall_ns")
    assert [round(time_ns / 1e9, 2) for time_ns, _ in rows] == [1e9, 1e9 + 1, 1e9 + 2]
    assert [wall_ns for _, wall_ns in rows] == [0, 10**9, 10**9]


def test_a_record_is_written_by_a_larger_step_and_by_flush(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "run")
    writer.add_scalar("loss", 1.0, 0)
    assert open_run(tmp_path / "run").ticks().rows() == []
    writer.add_scalar("loss", 2.0, 1)
    assert ticks(tmp_path / "run", "loss") == [(1.0,)]
    writer.flush()
    assert ticks(tmp_path / "run", "loss") == [(1.0,), (2.0,)]
    writer.close()
    writer.close()
    assert ticks(tmp_path / "run", "loss") == [(1.0,), (2.0,)]


def test_a_late_scalar_is_on_the_open_record_and_its_event_has_its_step(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        for step in range(1, 5):
            writer.add_scalar("loss", float(step), step)
            if step % 2 == 0:
                writer.add_scalar("validation", 10.0 * step, step // 2)
        writer.add_scalar("loss", float("nan"), 1)
    found = ticks(tmp_path / "run", "tick", "loss", "validation")
    assert found == [(1, 1.0, None), (2, 2.0, 20.0), (3, 3.0, None), (4, 4.0, 40.0)]
    assert events(tmp_path / "run", "late scalar") == [
        {"at": 2, "metric": "validation", "step": 1, "placed": True, "value": 20.0},
        {"at": 4, "metric": "validation", "step": 2, "placed": True, "value": 40.0},
        {"at": 4, "metric": "loss", "step": 1, "placed": False, "value": "nan"},
    ]


def test_a_late_scalar_does_not_replace_one_of_the_record(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("other", 0.0, 2)
        writer.add_scalar("loss", 1.0, 1)  # a straggler
        writer.add_scalar("loss", 2.0, 2)
    assert ticks(tmp_path / "run", "tick", "loss") == [(2, 2.0)]
    assert [event["placed"] for event in events(tmp_path / "run", "late scalar")] == [False]


def test_a_scalar_of_a_flushed_step_is_late(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("loss", 1.0, 1)
        writer.flush()
        writer.add_scalar("validation", 2.0, 1)
        writer.add_scalar("loss", 3.0, 2)
    found = ticks(tmp_path / "run", "tick", "loss", "validation")
    assert found == [(1, 1.0, None), (2, 3.0, 2.0)]
    (event,) = events(tmp_path / "run", "late scalar")
    assert event["step"] == 1


def test_without_steps_the_values_of_a_tag_are_counted(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        for value in range(3):
            writer.add_scalar("a", value)
            writer.add_scalars("b", {"x": value, "y": -value})
    found = ticks(tmp_path / "run", "tick", "a", "b/x", "b/y")
    assert found == [(0, 0.0, 0.0, 0.0), (1, 1.0, 1.0, -1.0), (2, 2.0, 2.0, -2.0)]


def test_names_that_a_metric_cannot_have(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        for tag in ("tick", "time_ns", "Loss", "loss", "tick_", ""):
            writer.add_scalar(tag, 1.0, 0)
    table = open_run(tmp_path / "run").ticks()
    assert table.metrics == ["tick_", "time_ns_", "Loss", "loss_", "tick__", "_"]


def test_a_directory_with_a_run_gets_another_attempt(tmp_path: Path) -> None:
    for begin in (0, 2):
        with SummaryWriter(tmp_path / "run") as writer:
            for step in range(begin, begin + 3):
                writer.add_scalar("begin", begin, step)
    found = ticks(tmp_path / "run", "attempt", "tick", "begin")
    assert found == [(0, 0, 0.0), (0, 1, 0.0), (1, 2, 2.0), (1, 3, 2.0), (1, 4, 2.0)]


def test_a_scalar_after_close_begins_another_attempt(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "run")
    writer.add_scalar("loss", 1.0, 0)
    writer.close()
    writer.add_scalar("loss", 2.0, 1)
    writer.close()
    assert ticks(tmp_path / "run", "attempt", "tick", "loss") == [(0, 0, 1.0), (1, 1, 2.0)]


def test_two_writers_of_a_directory_share_an_attempt(tmp_path: Path) -> None:
    train, validation = SummaryWriter(tmp_path / "run"), SummaryWriter(tmp_path / "run" / ".")
    for step in range(1, 5):
        train.add_scalar("loss/train", float(step), step)
        train.add_scalar("both", 1.0, step)
        if step % 2 == 0:
            validation.add_scalar("loss/validation", 10.0 * step, step)
            validation.add_scalar("both", 2.0, step)
    train.close()
    validation.add_scalar("loss/validation", 50.0, 5)
    validation.close()
    found = ticks(tmp_path / "run", "attempt", "tick", "loss/train", "loss/validation", "both")
    assert found == [
        (0, 1, 1.0, None, 1.0),
        (0, 2, 2.0, 20.0, 1.0),
        (0, 3, 3.0, None, 1.0),
        (0, 4, 4.0, 40.0, 1.0),
        (0, 5, None, 50.0, None),
    ]
    late = events(tmp_path / "run", "late scalar")
    assert [(event["step"], event["value"], event["placed"]) for event in late] == [
        (2, 2.0, False),
        (4, 2.0, False),
    ]
    assert len(events(tmp_path / "run", "end")) == 1


def test_writers_in_threads_lose_nothing(tmp_path: Path) -> None:
    def log(tag: str) -> None:
        with SummaryWriter(tmp_path / "run") as writer:
            barrier.wait()
            for step in range(50):
                writer.add_scalar(tag, float(step), step)
            barrier.wait()

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=log, args=(tag,)) for tag in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_run(tmp_path / "run").attempts == [0]
    late = events(tmp_path / "run", "late scalar")
    for tag in "abcd":
        event = {entry["step"]: entry["value"] for entry in late if entry["metric"] == tag}
        rows = dict(ticks(tmp_path / "run", "tick", tag))
        for entry in late:
            if entry["metric"] == tag and entry["placed"]:
                del rows[entry["at"]]
        on_record = {step: value for step, value in rows.items() if value is not None}
        assert event | on_record == {step: float(step) for step in range(50)}


def test_another_process_is_refused_while_a_writer_is_open(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom metronorm.integrations.tensorboard import SummaryWriter\n"
        f"SummaryWriter({str(tmp_path / 'run')!r}).add_scalar('a', 2.0, 1)"
    )
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("a", 1.0, 0)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"process {os.getpid()} on" in done.stderr
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ticks(tmp_path / "run", "attempt", "tick", "a") == [(0, 0, 1.0), (1, 1, 2.0)]


def test_a_writer_that_replaces_one_that_was_not_closed_is_a_restart(tmp_path: Path) -> None:
    """As when a cell of a notebook is run again."""
    for begin in (0.0, 10.0):
        writer = SummaryWriter(tmp_path / "run")
        for step in range(3):
            writer.add_scalar("a", begin + step, step)
    writer.close()
    found = ticks(tmp_path / "run", "attempt", "tick", "a", history="full")
    assert found == [(n, step, 10.0 * n + step) for n in (0, 1) for step in range(3)]
    assert events(tmp_path / "run", "late scalar") == []


def test_a_writer_that_is_collected_is_closed(tmp_path: Path) -> None:
    SummaryWriter(tmp_path / "run").add_scalar("a", 1.0, 0)
    gc.collect()
    assert ticks(tmp_path / "run", "a") == [(1.0,)]
    assert len(events(tmp_path / "run", "end")) == 1


def test_a_second_config_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        SummaryWriter(tmp_path / "run", config={"lr": 0.1}),
        SummaryWriter(tmp_path / "run", config={"lr": 0.2}),
        SummaryWriter(tmp_path / "run", config={"lr": 0.1}),
    ):
        pass
    (changed,) = events(tmp_path / "run", "changed")
    assert changed["config"] == {"lr": [0.1, 0.2]}
    assert "another config" in caplog.text


def test_series_logged_one_after_another_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        for tag in ("a", "b"):
            for step in range(4):
                writer.add_scalar(tag, float(step), step)
    assert ticks(tmp_path / "run", "tick", "a") == [(step, float(step)) for step in range(4)]
    late = events(tmp_path / "run", "late scalar")
    assert [(event["step"], event["value"], event["placed"]) for event in late] == [
        (0, 0.0, False),
        (1, 1.0, False),
        (2, 2.0, False),
    ]
    assert ticks(tmp_path / "run", "b")[-1] == (3.0,)
    assert caplog.text.count("late scalar") == 1


def test_of_two_late_scalars_the_last_is_placed(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("loss", 1.0, 5)
        for step in (1, 2):
            writer.add_scalar("validation", 10.0 * step, step)
    assert ticks(tmp_path / "run", "tick", "loss", "validation") == [(5, 1.0, 20.0)]
    assert [event["placed"] for event in events(tmp_path / "run", "late scalar")] == [False, True]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_a_walltime_in_another_unit_is_recognised(tmp_path: Path, scale: int) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        for step in range(2):
            writer.add_scalar("a", 1.0, step, walltime=(1_735_689_600 + step) * scale)
    rows = ticks(tmp_path / "run", "tick", "time_ns", "wall_ns")
    assert [round(time_ns / 1e9, 2) for _, time_ns, _ in rows] == [1_735_689_600, 1_735_689_601]
    assert [wall_ns for _, _, wall_ns in rows] == [0, 10**9]


@pytest.mark.parametrize(
    "walltime", [float("nan"), float("inf"), -1.0, 1e10, 1e300, "yesterday", 10**400]
)
def test_a_wrong_walltime_is_refused_and_nothing_is_lost(tmp_path: Path, walltime: Any) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("a", 1.0, 0)
        with pytest.raises(ConfigError, match="a walltime is seconds since 1970"):
            writer.add_scalar("a", 2.0, 1, walltime=walltime)
        writer.add_scalar("a", 3.0, 1)
    assert ticks(tmp_path / "run", "tick", "a") == [(0, 1.0), (1, 3.0)]


@pytest.mark.parametrize("step", [2**63, float("nan"), "last", [1], 1e300])
def test_a_wrong_step_is_refused_and_nothing_is_lost(tmp_path: Path, step: Any) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("a", 1.0, 2**63 - 2)
        for log in (writer.add_scalar, writer.add_text, writer.add_histogram):
            with pytest.raises(ConfigError, match="an integer of 64 bits"):
                log("a", 2.0, step)  # type: ignore[operator]
        writer.add_scalar("a", 3.0, 2**63 - 1)
    assert ticks(tmp_path / "run", "tick", "a") == [(2**63 - 2, 1.0), (2**63 - 1, 3.0)]
    assert open_run(tmp_path / "run").notices() == []


def test_a_relative_directory_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    writer = SummaryWriter("run")
    writer.add_scalar("a", 1.0, 0)
    writer.close()
    monkeypatch.chdir(tmp_path / "two")
    writer.add_scalar("a", 2.0, 1)
    writer.close()
    assert ticks(tmp_path / "one" / "run", "attempt", "a") == [(0, 1.0), (1, 2.0)]
    assert list((tmp_path / "two").iterdir()) == []


def test_decimals_are_numbers(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        for step in (1, 0):
            writer.add_scalar(f"a{step}", Decimal("0.5"), step)
    assert ticks(tmp_path / "run", "a1", "a0") == [(0.5, 0.5)]


def test_an_error_in_the_block_is_the_end_of_the_run(tmp_path: Path) -> None:
    def train() -> None:
        with SummaryWriter(tmp_path / "run") as writer:
            writer.add_scalar("loss", 1.0, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert ticks(tmp_path / "run", "loss") == [(1.0,)]
    (end,) = events(tmp_path / "run", "end")
    assert end["error"] == "ZeroDivisionError"


@pytest.mark.parametrize("error", [None, "ValueError"])
def test_a_writer_that_is_never_closed(tmp_path: Path, error: str | None) -> None:
    script = f"""
from metronorm.integrations.tensorboard import SummaryWriter
writer = SummaryWriter({str(tmp_path / "run")!r})
writer.add_scalar("loss", 1.0, 0)
{f"raise {error}" if error else ""}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == (1 if error else 0), done.stderr
    assert ticks(tmp_path / "run", "loss") == [(1.0,)]
    (end,) = events(tmp_path / "run", "end")
    assert end.get("error") == error


def test_loads_neither_torch_nor_tensorboard() -> None:
    code = "import metronorm.integrations.tensorboard, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "tensorboard", "tensorflow", "numpy"} & set(done.stdout.split())


def test_text_and_hyperparameters_are_events(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_text("note", "it *works*", 3)
        writer.add_hparams({"lr": 0.1, "name": "x"}, {"accuracy": torch.tensor(0.5)})
    (note,) = events(tmp_path / "run", "text")
    assert note == {"at": 0, "tag": "note", "step": 3, "text": "it *works*"}
    (event,) = events(tmp_path / "run", "hparams")
    assert event["parameters"] == {"lr": 0.1, "name": "x"}
    assert event["metrics"] == {"accuracy": 0.5}


@pytest.mark.parametrize("name", ["add_image", "add_figure", "add_graph", "add_audio"])
def test_methods_that_record_nothing_raise(tmp_path: Path, name: str) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        assert hasattr(theirs.SummaryWriter, name)
        with pytest.raises(ConfigError, match=name):
            getattr(writer, name)("tag", None, 0)


def test_has_every_method_of_the_original(tmp_path: Path) -> None:
    public = {name for name in vars(theirs.SummaryWriter) if not name.startswith("_")}
    assert public <= set(dir(SummaryWriter))


@pytest.mark.parametrize("value", ["one", None, torch.zeros(2)])
def test_a_scalar_must_be_one_number(tmp_path: Path, value: Any) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        with pytest.raises(ConfigError, match="one number"):
            writer.add_scalar("loss", value, 0)
        writer.add_scalar("loss", 1.0, 0)
        with pytest.raises(ConfigError, match="one number"):
            writer.add_scalar("other", value, -1)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**66), 2.0**66, width=32), min_size=1, max_size=50),
    bins=st.sampled_from(["tensorflow", "auto", [-1.0, 0.0, 2.0]]),
    max_bins=st.none() | st.integers(1, 40),
)
def test_histograms_are_those_of_torch(
    values: list[float], bins: Any, max_bins: int | None
) -> None:
    edges = theirs_default_bins() if bins == "tensorflow" else bins
    # torch takes it for an error if all are outside
    assume(bins == "auto" or any(edges[0] <= value <= edges[-1] for value in values))
    array = np.array(values, dtype=np.float32).astype(float)
    try:
        wanted = make_histogram(array, edges, max_bins)
    except ValueError:
        with pytest.raises(ConfigError, match="bins"):
            histogram(values, bins, max_bins)
        return
    found = histogram(torch.tensor(values), bins, max_bins)
    assert found["edges"] == list(wanted.bucket_limit)
    assert [0, *found["counts"]] == list(wanted.bucket)
    for name in ("min", "max", "sum", "sum_squares"):
        assert found[name] == getattr(wanted, name)


def theirs_default_bins() -> list[float]:
    bins: list[float] = []
    v = 1e-12
    while v < 1e20:
        bins.append(v)
        v *= 1.1
    return [-v for v in bins[::-1]] + [0] + bins


def test_histograms_of_every_dtype_of_torch_and_numpy(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        weights = torch.tensor([[1.0, 2.0], [float("nan"), float("inf")]], requires_grad=True)
        writer.add_histogram("bfloat16", weights.bfloat16(), 1)
        writer.add_histogram("array", np.array([1, 2]), 1)
        writer.add_histogram("list", [1, 2], 1)
        with pytest.raises(ConfigError, match="finite"):
            writer.add_histogram("none", torch.tensor([float("nan")]), 1)
    found = {event["tag"]: event for event in events(tmp_path / "run", "histogram")}
    assert found.keys() == {"bfloat16", "array", "list"}
    assert found["bfloat16"]["not_finite"] == 2
    for event in found.values():
        assert (event["step"], event["min"], event["max"], event["sum"]) == (1, 1, 2, 3)
        assert event["sum_squares"] == 5
        assert sum(event["counts"]) == 2
        assert len(event["edges"]) == len(event["counts"]) + 1


calls = st.lists(
    st.tuples(
        st.sampled_from(["loss/train", "loss/test", "tick", "Ünï cödé", "main"]),
        st.floats(width=32),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=6, deadline=None)
@given(calls=calls)
def test_the_same_calls_give_the_same_scalars_as_torch(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, float, int]]
) -> None:
    folder = tmp_path_factory.mktemp("writers")
    with theirs.SummaryWriter(folder / "theirs") as one, SummaryWriter(folder / "ours") as other:
        for tag, value, step in calls:
            for writer in (one, other):
                if tag == "main":
                    writer.add_scalars(tag, {"a": value, "b": -value}, step)
                else:
                    writer.add_scalar(tag, value, step)
    export_tensorboard(folder / "ours", folder / "exported")
    wanted = scalars(folder / "theirs")
    for (tag, step), value in list(wanted.items()):
        if tag.endswith("/main"):  # torch puts each tag into a run of its own
            del wanted[tag, step]
            wanted[f"main/{tag[len('main_')]}", step] = value
    found = scalars(folder / "exported")
    found = {key: value for key, value in found.items() if not key[0].endswith("_seconds")}
    assert same(found, wanted)


def test_what_torch_wrote_is_imported_as_what_this_writer_records(tmp_path: Path) -> None:
    for kind, folder in ((theirs.SummaryWriter, "theirs"), (SummaryWriter, "ours")):
        with kind(tmp_path / folder) as writer:
            for step in range(4):
                writer.add_scalar("loss", 0.5 * step, step)
                writer.add_scalar("learning rate", 2.0**-step, step, new_style=True)
                writer.add_scalars("pair/of", {"a": step, "b/c": -step}, step)
    assert import_tensorboard(tmp_path / "theirs", tmp_path / "run") == [tmp_path / "run"]
    columns = ("tick", "loss", "learning rate", "pair/of/a", "pair/of/b/c")
    assert ticks(tmp_path / "run", *columns) == ticks(tmp_path / "ours", *columns)
    assert len(ticks(tmp_path / "run", *columns)) == 4
