import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from metronorm.errors import RunError
from metronorm.integrations.accelerate import TickTracker
from metronorm.runs import open_run

from .runs import errors, events, numbers


def train(tracker: TickTracker, *, first: int = 1, steps: int = 4, **options: Any) -> list[float]:
    """The losses it logged, one a step from `first` on."""
    torch.manual_seed(0)
    accelerator = Accelerator(log_with=tracker, cpu=True)
    accelerator.init_trackers("project", **options)
    model = torch.nn.Linear(4, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    losses = []
    for step in range(first, first + steps):
        loss = model(torch.randn(8, 4)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.log({"loss": loss.detach()}, step=step)
        losses.append(loss.item())
    accelerator.log({"accuracy": 0.5, "note": "the last"}, step=first + steps - 1)
    accelerator.end_training()
    return losses


def test_every_logged_step_is_a_tick(tmp_path: Path) -> None:
    losses = train(TickTracker(tmp_path / "run"), config={"lr": 0.1})
    run = open_run(tmp_path / "run")
    rows = run.ticks().rows()
    assert [row["tick"] for row in rows] == [1, 2, 3, 4]
    assert [row["loss"] for row in rows] == losses
    assert [row["accuracy"] for row in rows] == [None, None, None, 0.5]
    assert all(row["wall_ns"] == row["unattributed_ns"] > 0 for row in rows)
    assert run.info.config == {"lr": 0.1}
    assert events(run, "logged") == [(0, 4, {"values": {"note": "the last"}})]
    assert errors(run) == [None]


def test_loops_that_count_from_0_or_not_at_all(tmp_path: Path) -> None:
    train(TickTracker(tmp_path / "zero"), first=0)
    assert [row["tick"] for row in open_run(tmp_path / "zero").ticks().rows()] == [0, 1, 2, 3]
    tracker = TickTracker(tmp_path / "none")
    for value in (3.0, 2.0, 1.0):
        tracker.log({"loss": value})
    tracker.finish()
    rows = open_run(tmp_path / "none").ticks().rows()
    assert [(row["tick"], row["loss"]) for row in rows] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_an_earlier_step_is_an_event(tmp_path: Path) -> None:
    tracker = TickTracker(tmp_path / "run")
    tracker.log({"loss": 2.0}, step=10)
    tracker.log({"epoch_loss": 3.0}, step=1)
    tracker.log({"loss": 1.0}, step=11)
    tracker.finish()
    run = open_run(tmp_path / "run")
    assert [row["tick"] for row in run.ticks().rows()] == [10, 11]
    assert events(run, "logged") == [(0, 10, {"values": {"step": 1, "epoch_loss": 3.0}})]


def test_numbers_in_a_dict_are_metrics(tmp_path: Path) -> None:
    tracker = TickTracker(tmp_path / "run")
    tracker.log({"loss": 2.0, "m": {"a": 1.0, "b": torch.tensor(3)}}, step=1)
    tracker.finish()
    (row,) = open_run(tmp_path / "run").ticks().rows()
    assert [row[name] for name in ("loss", "m/a", "m/b")] == [2.0, 1.0, 3.0]


def test_a_relative_directory_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    tracker = TickTracker("run")
    monkeypatch.chdir(tmp_path / "two")
    tracker.log({"loss": 2.0}, step=1)
    tracker.finish()
    assert len(open_run(tmp_path / "one" / "run").ticks().rows()) == 1
    assert list((tmp_path / "two").iterdir()) == []


def test_a_resume_is_a_new_attempt(tmp_path: Path) -> None:
    train(TickTracker(tmp_path / "run"))
    with pytest.raises(RunError, match="needs a directory of its own"):
        train(TickTracker(tmp_path / "run"), first=3)
    again = TickTracker(tmp_path / "run", resume=True)
    again.log({"loss": 0.0}, step=3)  # from a checkpoint after two steps
    again.finish()
    run = open_run(tmp_path / "run")
    assert run.attempts == [0, 1]
    assert numbers(run) == [(0, 1), (0, 2), (1, 3)]


def test_a_second_loop_continues_the_run(tmp_path: Path) -> None:
    tracker = TickTracker(tmp_path / "run")
    train(tracker, steps=2)
    train(tracker, first=3, steps=2)
    assert numbers(open_run(tmp_path / "run")) == [(0, 1), (0, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize(("ending", "error"), [("", None), ("1 / 0", "ZeroDivisionError")])
def test_a_script_that_ends_without_end_training(
    tmp_path: Path, ending: str, error: str | None
) -> None:
    """Many scripts forget `end_training`; one that fails cannot come to it."""
    code = f"""
import sys
from accelerate import Accelerator
from metronorm.integrations.accelerate import TickTracker
accelerator = Accelerator(log_with=TickTracker({str(tmp_path / "run")!r}), cpu=True)
accelerator.init_trackers("project")
for step in range(1, 4):
    accelerator.log({{"loss": 1 / step}}, step=step)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (error is not None), done.stderr
    run = open_run(tmp_path / "run")
    assert [row["loss"] for row in run.ticks().rows()] == [1, 1 / 2, 1 / 3]
    assert errors(run) == [error]


def test_the_tracker_is_the_clock(tmp_path: Path) -> None:
    accelerator = Accelerator(log_with=TickTracker(tmp_path / "run"), cpu=True)
    accelerator.init_trackers("project", config={})
    accelerator.log({"loss": 1.0}, step=1)
    accelerator.get_tracker("metronorm", unwrap=True).event("sample", text="to be")
    accelerator.end_training()
    assert events(open_run(tmp_path / "run"), "sample") == [(0, 1, {"text": "to be"})]


def test_without_the_package() -> None:
    code = "import sys\nsys.modules['accelerate'] = None\nimport metronorm.integrations.accelerate"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingDependencyError" in done.stderr
    assert "pip install 'accelerate>=1.10'" in done.stderr
