"""A number of minutes instead of a number of ticks."""

import json
import math
import os
import re
import signal
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.cli import main
from metronorm.errors import ConfigError, RunError
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.train import train
from metronorm.train.time_budget import FILE, TimeBudget, check_time
from metronorm.train.world import World

from .acting import at_every_tick
from .tiny import tiny_config


class Trainer:
    """Makes ticks of given seconds in a virtual time, as the loop does."""

    def __init__(self, directory: Path, minutes: float, **options: Any) -> None:
        self.time = 1000.0
        self.done: int = options.get("done", 0)
        self.budget = TimeBudget(minutes, directory, World(), now=lambda: self.time, **options)
        self.ticks = self.budget.begin(1.0)
        self.plans = {self.done: self.ticks}

    def run(self, seconds: Any, until: float = math.inf) -> None:
        """Until the planned end, or an earlier tick; `seconds(tick)` is the time of a tick."""
        while self.done < min(self.ticks, until):
            self.done += 1
            self.time += seconds(self.done)
            if self.done < self.ticks:
                planned = self.budget.end_tick(self.done)
                if planned is not None:
                    self.ticks = self.plans[self.done] = planned


def test_ticks_of_one_length_fill_the_time(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, minutes=1)
    assert trainer.ticks == 60, "what the trial says"
    trainer.run(lambda tick: 0.25)
    assert trainer.time - 1000 == pytest.approx(60, abs=0.5)
    assert trainer.plans[2] == 240
    assert [*trainer.plans] == [0, 2, 8, 30, 60, 120, 180, 210, 225]


def test_a_slow_first_tick_and_slow_evaluations_leave_the_end_where_it_is(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, minutes=2)
    trainer.run(lambda tick: 20.0 if tick == 1 else 3.0 if tick % 50 == 0 else 0.1)
    assert trainer.time - 1000 == pytest.approx(120, abs=4)


@settings(deadline=None, max_examples=50)
@given(
    seconds=st.lists(st.floats(0.01, 3.0), min_size=5, max_size=50),
    minutes=st.floats(0.2, 10.0),
)
def test_each_plan_is_later_than_its_tick_and_on_record(
    seconds: list[float], minutes: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plans")
    trainer = Trainer(folder, minutes)
    trainer.run(lambda tick: seconds[tick % len(seconds)])
    kept = {plan["tick"]: plan["ticks"] for plan in json.loads((folder / FILE).read_text())}
    assert kept == trainer.plans
    assert all(ticks > tick for tick, ticks in kept.items() if tick)
    assert all(one < other for one, other in pairwise(kept))
    assert trainer.done == trainer.ticks


def test_a_run_that_goes_on_takes_the_plans_on_record_and_then_its_own(tmp_path: Path) -> None:
    first = Trainer(tmp_path, minutes=1)
    first.run(lambda tick: 0.25, until=100)  # killed; its newest checkpoint is of tick 40
    again = Trainer(tmp_path, minutes=1, done=40, seconds=10.0)
    assert again.ticks == first.plans[30]
    again.run(lambda tick: 0.5)
    assert again.plans[60] == first.plans[60], "although ticks are twice as slow now"
    assert again.plans[120] < first.plans[60]
    assert again.time - 1000 + 10 == pytest.approx(60, abs=1)


def test_other_minutes_are_planned_anew_from_the_first_tick_on(tmp_path: Path) -> None:
    Trainer(tmp_path, minutes=1).run(lambda tick: 0.25, until=100)
    longer = Trainer(tmp_path, minutes=2, done=40, seconds=10.0, again=False)
    assert longer.ticks == 480
    shorter = Trainer(tmp_path, minutes=0.1, done=40, seconds=10.0, again=False)
    assert shorter.ticks == 40, "no tick more"


@pytest.mark.parametrize("content", ["[", "{}", '[{"tick": -1, "ticks": 3, "seconds": 0.0}]'])
def test_damaged_plans_are_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(RunError, match="the plans of a run must be readable"):
        TimeBudget(1.0, tmp_path, World(), done=3)


def test_where_a_plan_cannot_be_written_the_one_before_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(tmp_path, minutes=1)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    trainer.run(lambda tick: 0.25)
    assert trainer.done == 60
    assert "the plan stays as it is" in caplog.text


def test_too_little_time_for_a_tick_is_refused() -> None:
    check_time(1.0, 59.0)
    with pytest.raises(ConfigError, match=re.escape("got 1, where a tick takes about 1.02 min")):
        check_time(1.0, 61.0)


def rows(run: Path, history: Any = "effective") -> list[dict[str, Any]]:
    return open_run(run).ticks(history).only("attempt", "tick", "loss", "learning_rate").rows()


def test_a_killed_training_of_minutes_is_made_again_bit_for_bit(tmp_path: Path) -> None:
    config = replace(
        tiny_config(tmp_path), minutes=10.0, checkpoint_every=5, evaluate_every=10_000, ticks=1
    )
    run = tmp_path / "run"

    def fail(tick: int) -> None:
        if tick == 14:
            raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"), at_every_tick(fail):
        train(text.task, config, run)
    plans = json.loads((run / FILE).read_text())
    assert [plan["tick"] for plan in plans[:3]] == [0, 2, 8]
    # as SIGKILL would leave it: without the checkpoint that the error made
    for folder in (run / "checkpoints").glob("tick-*"):
        if int(folder.name[5:]) > 5:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()

    def stop(tick: int) -> None:
        if tick == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    with at_every_tick(stop):
        train(text.task, config, run, resume=True)
    before = {row["tick"]: row for row in rows(run, "full") if row["attempt"] == 0}
    after = {row["tick"]: row for row in rows(run, "full") if row["attempt"] == 1}
    both = before.keys() & after.keys()
    assert {6, 9, 13} <= both
    for tick in both:
        assert before[tick]["loss"] == after[tick]["loss"]
        assert before[tick]["learning_rate"] == after[tick]["learning_rate"]
    assert json.loads((run / FILE).read_text())[:3] == plans[:3]
    planned = tomllib.loads((run / "config.toml").read_text())["ticks"]
    assert planned == json.loads((run / FILE).read_text())[-1]["ticks"], "what readers show"


def test_minutes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--minutes", "1", "--ticks", "9"]) == 2
    assert "got --ticks beside 1 minutes; try: --minutes 0 with --ticks" in capsys.readouterr().err
    assert main(["train", "--minutes", "-1"]) == 2
    assert "minutes must be at least 0 and finite" in capsys.readouterr().err
