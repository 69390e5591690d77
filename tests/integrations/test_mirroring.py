"""A run is mirrored while it is written; a tracker that is slow or fails never stops it."""

import importlib.util
import logging
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metronorm.cli import main, training
from metronorm.clock import Clock
from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.integrations import mirroring as module
from metronorm.integrations.importing import import_run
from metronorm.integrations.mirroring import mirroring
from metronorm.integrations.trackers import TRACKERS, Opened
from metronorm.runs import open_run

from ..train.tiny import write_text

TINY = [
    "--data", "text", "--cache", "cache", "--model.context", "16", "--model.layers", "1",
    "--model.heads", "2", "--model.width", "16", "--ticks", "4", "--batch-size", "2",
    "--micro-batches", "1", "--checkpoint-every", "2", "--evaluate-every", "2",
    "--evaluate-tokens", "64", "--sample-every", "0", "--precision", "fp32", "--allocator",
    "system", "--device", "cpu", "--tokenizer", "char", "--run", "run",
]  # fmt: skip


class Kept:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.opened: list[Opened] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.seen = threading.Event()
        self.is_closed = False

    def open(self, run: Opened) -> int:
        self.opened.append(run)
        return 0

    def write(self, tick: int, time_ns: int, values: dict[str, float]) -> None:
        assert time_ns > 1e18
        self.rows.append((tick, values))
        self.seen.set()

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    tracker = Kept()
    monkeypatch.setitem(TRACKERS, "kept", lambda: tracker)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    return tracker


def record(run: Path, ticks: range, *, resume: bool = False, scale: float = 1.0) -> None:
    with Clock(run, config={"rate": 0.1}, progress=False, resume=resume) as clock:
        for tick in clock.ticks(ticks, initial=ticks[0] - 1):
            with clock.phase("forward"):
                clock.log(loss=scale / tick, tokens=10)
            if tick == 3:
                clock.log(odd=math.nan)
        clock.log(test_loss=0.5)


def scalars(folder: Path, tag: str) -> list[tuple[int, Any]]:
    found = EventAccumulator(str(folder)).Reload()
    return [(each.step, each.value) for each in found.Scalars(tag)]


def test_ticks_are_written_while_the_run_goes_on(tmp_path: Path, kept: Kept) -> None:
    with mirroring(tmp_path / "run", ["kept"]), Clock(tmp_path / "run", progress=False) as clock:
        for tick in clock.ticks(range(1, 4)):
            clock.log(loss=float(tick), tick_=5.0)
            if tick == 2:
                assert kept.seen.wait(60), "the first tick is there before the second ends"
    assert [tick for tick, _ in kept.rows] == [1, 2, 3]
    assert kept.rows[1][1].items() >= {"loss": 2.0, "tick": 5.0}.items()
    assert kept.rows[1][1]["tick/wall_seconds"] > 0
    assert kept.opened[0].tick == 0
    assert kept.is_closed


def test_what_was_sealed_before_a_look_is_read_from_the_run(
    tmp_path: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 1e6)
    monkeypatch.setattr(module, "_ROWS", 2)
    with mirroring(tmp_path / "run", ["kept"]):
        record(tmp_path / "run", range(1, 6))
    ticks = dict(kept.rows)
    assert list(ticks) == [1, 2, 3, 4, 5]
    assert [values["loss"] for values in ticks.values()] == [1 / tick for tick in ticks]
    assert math.isnan(ticks[3]["odd"])
    assert ticks[5]["test_loss"] == 0.5, "logged after the tick"
    assert ticks[2]["phase/forward_seconds"] > 0


def test_the_event_files_are_what_tensorboard_reads(tmp_path: Path) -> None:
    with mirroring(tmp_path / "run", ["tensorboard"]):
        record(tmp_path / "run", range(1, 6))
    folder = tmp_path / "run" / "tensorboard"
    assert scalars(folder, "loss") == [(tick, pytest.approx(1 / tick)) for tick in range(1, 6)]
    assert scalars(folder, "test_loss") == [(5, 0.5)]
    assert [step for step, _ in scalars(folder, "tick/wall_seconds")] == [1, 2, 3, 4, 5]
    with mirroring(tmp_path / "run", ["tensorboard"]):  # from tick 3 on, anew
        record(tmp_path / "run", range(4, 9), resume=True, scale=7.0)
    again = scalars(folder, "loss")
    assert [step for step, _ in again] == [*range(1, 9)]
    assert [value for _, value in again[3:]] == [pytest.approx(7 / tick) for tick in range(4, 9)]


def test_a_slow_tracker_holds_nothing_up_and_what_is_missing_is_said(
    tmp_path: Path, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    write = kept.write

    def slow(tick: int, time_ns: int, values: dict[str, float]) -> None:
        write(tick, time_ns, values)
        assert go_on.wait(60)

    kept.write = slow  # type: ignore[method-assign]
    with (
        mirroring(tmp_path / "run", ["kept"], end_seconds=0.0) as (mirror,),
        Clock(tmp_path / "run", progress=False) as clock,
    ):
        for tick in clock.ticks(range(1, 9)):
            clock.log(loss=float(tick))
            if tick == 2:
                assert kept.seen.wait(60)
    assert len(open_run(tmp_path / "run").ticks().rows()) == 8
    (warning,) = caplog.messages
    assert "mirror kept: the last 7 ticks were not written in 0 s; the run has them" in warning
    go_on.set()
    mirror._thread.join(60)
    assert [tick for tick, _ in kept.rows] == [1]


@pytest.mark.parametrize("method", ["open", "write", "flush", "close"])
def test_a_tracker_that_fails_is_said_once(
    tmp_path: Path, kept: Kept, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    def fail(*arguments: Any) -> Any:
        raise ConnectionError("no such host\nand more")

    setattr(kept, method, fail)
    with mirroring(tmp_path / "run", ["kept"]):
        record(tmp_path / "run", range(1, 6))
    assert len(open_run(tmp_path / "run").ticks().rows()) == 5
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "(ConnectionError: no such host); the training goes on" in warning.getMessage()


def test_a_training_that_never_begins_leaves_no_mirror(tmp_path: Path, kept: Kept) -> None:
    with pytest.raises(ZeroDivisionError), mirroring(tmp_path / "run", ["kept"]):
        raise ZeroDivisionError
    assert (kept.opened, kept.rows, kept.is_closed) == ([], [], False)


def test_names_and_packages_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="tensorboard, wandb, trackio"):
        mirroring(tmp_path, ["aim"]).__enter__()
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
            mirroring(tmp_path, [name]).__enter__()
    assert threading.active_count() == len(threading.enumerate())
    assert not [each for each in threading.enumerate() if "mirror" in each.name]


def test_the_command_knows_all_trackers() -> None:
    (names,) = {get_args(get_type_hints(training.Options)["mirror"])[0]}
    assert set(get_args(names)) == set(TRACKERS)


def test_the_command_mirrors_a_training_and_goes_on_in_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    assert main(["train", *TINY, "--mirror", "tensorboard"]) == 0
    folder = tmp_path / "run" / "tensorboard"

    def recorded(name: str) -> list[tuple[int, float]]:
        rows = open_run("run").ticks().rows()
        return [(row["tick"], row[name]) for row in rows if row[name] is not None]

    for name in ("loss", "validation_loss", "learning_rate"):
        assert scalars(folder, name) == [
            (tick, pytest.approx(value)) for tick, value in recorded(name)
        ]
    assert len(recorded("loss")) == 4
    assert main(["train", "--resume", "run", "--ticks", "6", "--mirror", "tensorboard"]) == 0
    assert [step for step, _ in scalars(folder, "loss")] == [1, 2, 3, 4, 5, 6]


def test_wandb_gets_the_run_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a stand-in for the package is called: where it knows the steps of the first attempt."""
    logged: dict[str, dict[int, dict[str, float]]] = {}
    asked: list[dict[str, Any]] = []

    def init(**options: Any) -> Any:
        asked.append(options)
        rows = logged.setdefault(options["id"], {})
        return SimpleNamespace(
            step=max(rows, default=-1) + 1,
            log=lambda values, step: rows.setdefault(step, {}).update(values),
            finish=lambda: None,
        )

    package = SimpleNamespace(init=init, Settings=lambda **settings: settings)
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    with mirroring(tmp_path / "run", ["wandb"]):
        record(tmp_path / "run", range(1, 6))
    with mirroring(tmp_path / "run", ["wandb"]):
        record(tmp_path / "run", range(4, 9), resume=True, scale=7.0)
    info = open_run(tmp_path / "run").info
    assert [options["id"] for options in asked] == [info.id, info.id]
    assert asked[0]["project"] == "metronorm"
    assert asked[0]["config"] == {"rate": 0.1}
    assert asked[0]["resume"] == "allow"
    rows = logged[info.id]
    assert list(rows) == [*range(1, 9)]
    assert [rows[tick]["loss"] * tick for tick in rows] == pytest.approx([1.0] * 5 + [7.0] * 3)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
def test_wandb_itself_keeps_the_run_offline(tmp_path: Path) -> None:
    mirrored_twice(tmp_path, "wandb", WANDB_MODE="offline", WANDB_SILENT="true")
    files = sorted(tmp_path.rglob("*.wandb"))
    identity = open_run(tmp_path / "run").info.id
    found = []
    for number, file in enumerate(files):
        assert identity in file.name
        (run,) = import_run(file, tmp_path / f"imported-{number}")
        found.append([(row["tick"], row["loss"]) for row in open_run(run).ticks().rows()])
    assert found == [
        [(tick, pytest.approx(1 / tick)) for tick in ticks] for ticks in (range(1, 6), range(4, 9))
    ]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="needs trackio")
def test_trackio_has_each_tick_once(tmp_path: Path) -> None:
    mirrored_twice(tmp_path, "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    (run,) = import_run(tmp_path / "trackio", tmp_path / "imported")
    assert [(row["tick"], row["loss"]) for row in open_run(run).ticks().rows()] == [
        (tick, pytest.approx(1 / tick)) for tick in range(1, 9)
    ]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="needs trackio")
def test_what_trackio_does_not_store_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    script = """
import logging, warnings
from metronorm.clock import Clock
from metronorm.integrations.mirroring import mirroring

logging.basicConfig()
warnings.simplefilter("ignore")
with mirroring("run", ["trackio"]), Clock("run", progress=False) as clock:
    for tick in clock.ticks(range(3)):
        clock.log(loss=tick)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "file" / "trackio")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mirror trackio failed after 3 ticks" in done.stderr
    assert "got ticks up to 0 of 3" in done.stderr


def mirrored_twice(folder: Path, name: str, **environment: str) -> None:
    """A run of five ticks, and another attempt from the fourth on, in a process of its own."""
    script = f"""
from metronorm.clock import Clock
from metronorm.integrations.mirroring import mirroring

for ticks, resume in ((range(1, 6), False), (range(4, 9), True)):
    with mirroring("run", ["{name}"]), Clock("run", progress=False, resume=resume) as clock:
        for tick in clock.ticks(ticks, initial=ticks[0] - 1):
            clock.log(loss=1 / tick)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mirror" not in done.stderr
