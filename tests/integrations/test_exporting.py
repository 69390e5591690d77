import csv
import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError
from metronorm.integrations.exporting import (
    export_csv,
    export_parquet,
    export_run,
    export_tensorboard,
)
from metronorm.integrations.importing import import_tensorboard
from metronorm.integrations.tensorboard import SummaryWriter
from metronorm.runs import open_run
from tests.clock.virtual import VirtualTime
from tests.integrations.event_files import same, scalars

VALUES = [1.0, float("nan"), float("inf"), float("-inf"), 1e-320, 2.0**53 + 2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    now = VirtualTime()
    with Clock(tmp_path / "run", config={"lr": [0.1]}, progress=False, now=now) as clock:
        for value in clock.ticks(VALUES):
            with clock.phase("forward"):
                now.pass_(3_000_001)
            now.pass_(2)
            clock.log(**{"loss/train": value, "Ünï '\"": -value})
            if value == 1.0:
                clock.log(seldom=5)
    return tmp_path / "run"


def rows(directory: Path) -> list[dict[str, Any]]:
    return open_run(directory).ticks().rows()


def test_csv(run: Path, tmp_path: Path) -> None:
    export_csv(run, tmp_path / "new" / "ticks.csv")
    with open(tmp_path / "new" / "ticks.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == open_run(run).ticks().columns
    assert same([float(row["loss/train"]) for row in found], VALUES)
    assert [row["seldom"] for row in found] == ["5.0", "", "", "", "", ""]
    assert [row["forward_ns"] for row in found] == ["3000001"] * 6


def test_parquet(run: Path, tmp_path: Path) -> None:
    export_parquet(open_run(run), tmp_path / "ticks.parquet")
    read = duckdb.connect().execute("from read_parquet(?)", [str(tmp_path / "ticks.parquet")])
    names = [column[0] for column in read.description or ()]
    found = [dict(zip(names, row, strict=True)) for row in read.fetchall()]
    assert same(found, rows(run))


def test_tensorboard_reads_it(run: Path, tmp_path: Path) -> None:
    export_tensorboard(run, tmp_path / "log")
    events = EventAccumulator(str(tmp_path / "log")).Reload().Scalars("loss/train")
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
    assert same([event.value for event in events], np.float32(VALUES).astype(float).tolist())
    assert [event.wall_time for event in events] == [row["time_ns"] / 1e9 for row in rows(run)]
    read = scalars(tmp_path / "log")
    tags = {"loss/train", "Ünï '\"", "seldom", "tick/wall_seconds", "tick/gc_seconds"}
    phases = {f"phase/{phase}_seconds" for phase in open_run(run).ticks().phases}
    assert {tag for tag, _ in read} == tags | phases
    assert read["phase/forward_seconds", 1] == pytest.approx(0.003000001)
    assert read["tick/wall_seconds", 1] == pytest.approx(0.003000003)
    assert [step for tag, step in read if tag == "seldom"] == [1]


def test_an_export_is_imported_as_the_same_run(run: Path, tmp_path: Path) -> None:
    export_tensorboard(run, tmp_path / "log")
    import_tensorboard(tmp_path / "log", tmp_path / "back")
    info = open_run(tmp_path / "back").info
    assert info.name == "run"
    assert info.config["lr"] == [0.1]
    assert info.config["imported"]["format"] == "tensorboard"
    check_same(run, tmp_path / "back")


def check_same(one: Path, other: Path) -> None:
    """All but what a run's own clock cost, and times to the precision of TensorBoard's."""
    for wanted, found in zip(rows(one), rows(other), strict=True):
        assert abs(wanted.pop("time_ns") - found.pop("time_ns")) < 500
        for row in (wanted, found):
            row.pop("clock_ns", None)
            row.pop("attempt")
        assert same(found, wanted)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
records = st.lists(
    st.dictionaries(
        st.sampled_from(["a/b", "loss", "phase/x", "é😀", "a b", "'\"`"]) | names,
        st.floats(),
        max_size=5,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=6, deadline=None)
@given(records=records)
def test_any_names_and_values_are_exported_and_imported(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, float]]
) -> None:
    folder = tmp_path_factory.mktemp("back")
    now = VirtualTime()
    logged = 0
    with Clock(folder / "run", progress=False, now=now) as clock:
        for record in clock.ticks(records):
            now.pass_(1_000)
            for name, value in record.items():
                try:
                    clock.log(**{name: value})
                except ConfigError:  # a name that no metric can have
                    continue
                logged += 1
    export_tensorboard(folder / "run", folder / "log")
    import_tensorboard(folder / "log", folder / "back")
    check_same(folder / "run", folder / "back")
    metrics = open_run(folder / "back").ticks().metrics
    found = [row[name] for row in rows(folder / "back") for name in metrics]
    assert sum(value is not None for value in found) == logged


def test_windows_keep_their_beats(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        for _ in clock.ticks(range(5), micro_batches=2):
            clock.log(loss=1.0)
    export_tensorboard(tmp_path / "run", tmp_path / "log")
    assert {
        key: value for key, value in scalars(tmp_path / "log").items() if "beats" in key[0]
    } == {
        ("tick/beats", 1): 2.0,
        ("tick/beats", 2): 2.0,
    }
    import_tensorboard(tmp_path / "log", tmp_path / "back")
    check_same(tmp_path / "run", tmp_path / "back")


def test_an_import_has_the_names_from_before_the_export(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("tick", 1.0, 0)
        writer.add_scalar("tick_", 2.0, 0)
    export_tensorboard(tmp_path / "run", tmp_path / "log")
    found = scalars(tmp_path / "log")
    assert (found["tick", 0], found["tick_", 0]) == (1.0, 2.0)


def test_histograms_and_texts_are_exported_too(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalar("loss", 1.0, 4)
        writer.add_text("note", "it *works*", 4)
        writer.add_histogram("weights", [-1.0, 0.0, 2.0], 4)
    export_tensorboard(tmp_path / "run", tmp_path / "log")
    accumulator = EventAccumulator(str(tmp_path / "log")).Reload()
    (event,) = accumulator.Histograms("weights")
    assert event.step == 4
    read = event.histogram_value
    assert (read.min, read.max, read.num, read.sum, read.sum_squares) == (-1.0, 2.0, 3, 1.0, 5.0)
    (text,) = accumulator.Tensors("note")
    assert text.tensor_proto.string_val == [b"it *works*"]
    import_tensorboard(tmp_path / "log", tmp_path / "back")
    query = "select fields from events where event in ('histogram', 'text') order by event"
    wanted, found = (
        [json.loads(row[0]) for row in open_run(path).events().sql(query).fetchall()]
        for path in (tmp_path / "run", tmp_path / "back")
    )
    assert found == wanted


def test_every_rank_has_its_own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        with Clock(tmp_path / "run", progress=False) as clock:
            for _ in clock.ticks([0]):
                clock.log(rank_is=rank)
    export_tensorboard(tmp_path / "run", tmp_path / "log")
    found = {key: value for key, value in scalars(tmp_path / "log").items() if "is" in key[0]}
    assert found == {("rank=0/rank_is", 1): 0.0, ("rank=1/rank_is", 1): 1.0}


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.parquet"])
def test_a_file_that_exists_already(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="--overwrite"):
        export_run(run, tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"
    export_run(run, tmp_path / name, overwrite=True)
    assert (tmp_path / name).read_bytes()[:4] in (b"atte", b"PAR1")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RunError, match=r"folder\.csv"):
        export_run(run, tmp_path / "folder.csv", overwrite=True)


def test_a_directory_that_exists_already(run: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    export_run(run, log)
    (first,) = log.iterdir()
    with pytest.raises(RunError, match="--overwrite"):
        export_run(run, log)
    export_run(run, log, overwrite=True)
    (second,) = log.iterdir()
    assert first != second
    (log / "mine").touch()
    with pytest.raises(RunError, match="which exists"):
        export_run(run, log, overwrite=True)
    assert {path.name for path in log.iterdir()} == {"mine", second.name}


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json"):
        export_run(tmp_path / "missing", tmp_path / "t.csv")


def test_no_such_place(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("t.csv", "t.parquet", "log"):
        with pytest.raises(RunError, match="writable"):
            export_run(run, tmp_path / "file" / name)


def test_a_nan_is_not_a_missing_value(run: Path, tmp_path: Path) -> None:
    export_tensorboard(run, tmp_path / "log")
    import_tensorboard(tmp_path / "log", tmp_path / "back")
    second = rows(tmp_path / "back")[1]
    assert math.isnan(second["loss/train"])
    assert second["seldom"] is None
