"""Studies on a task that trains in a tenth of a second."""

import errno
import math
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metronorm.errors import ConfigError, DivergenceError, OutOfMemoryError, RunError
from metronorm.runs import open_run
from metronorm.runs.events import read_events
from metronorm.store.run_directory import read_run_info
from metronorm.train.config_changes import config_from_dict, read_toml
from metronorm.tune import open_study
from metronorm.tune import running as running_module
from metronorm.tune.findings import LEAST_FOR_IMPORTANCE, bought, cost, importance, ranked
from metronorm.tune.rungs import best_of
from metronorm.tune.search import parse_budget
from metronorm.tune.space_file import space_from
from metronorm.tune.study import Known, Result, Trial

from ..train.acting import at_every_tick, stop_at
from .least_squares import Config, task
from .studies import SPACE, begun, searched


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was never disturbed."""
    directory = tmp_path_factory.mktemp("studies") / "whole"
    assert searched(begun(directory, seeds=2), "8runs") is None
    return directory


def test_a_study_finds_what_beats_the_default(whole: Path) -> None:
    study = open_study(whole)
    known = study.known()
    roles = [each.trial.role for each in known]
    assert roles == ["default", *["search"] * 7, *["seed"] * 2]
    assert known[0].trial.point == {"optimizer.learning-rate": 1e-3, "hidden": 4}
    best = best_of(study, known)
    assert best is not None
    assert best.value is not None
    assert known[0].value is not None
    assert best.value < 0.8 * known[0].value
    assert best.trial.point["optimizer.learning-rate"] > 1e-2
    found = bought(study, known)
    assert found is not None
    assert found.seeds == 2
    assert found.best < found.default
    spent = cost(known)
    assert (spent.trials, round(spent.runs)) == (10, 10)
    order = ranked(study, known)
    assert [each.value for each in order] == sorted(
        each.value for each in known if each.trial.role != "seed"
    )


def test_what_matters_is_what_the_value_depends_on(tmp_path: Path) -> None:
    study, space = begun(tmp_path / "study"), space_from(SPACE, Config)
    chance = random.Random(0)
    known = []
    for number in range(LEAST_FOR_IMPORTANCE + 20):
        point = space.drawn(chance)
        value = (math.log10(point["optimizer.learning-rate"]) + 2) ** 2 + 0.01 * point["hidden"]
        trial = Trial(number=number, point=point, rung=0)
        known.append(Known(trial, Result(status="done", value=value)))
    shares = importance(study, space, known)
    assert shares["optimizer.learning-rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(study, space, known[: LEAST_FOR_IMPORTANCE - 1]) == {}


def test_trials_are_ordinary_runs_and_the_best_is_a_config(whole: Path) -> None:
    study = open_study(whole)
    best = best_of(study, study.known())
    assert best is not None
    run = study.run(best.trial.number)
    last = open_run(run).ticks().rows()[-1]
    assert last["validation_loss"] == best.value
    config = config_from_dict(read_toml(whole / "best.toml"), Config, whole / "best.toml")
    assert config.optimizer.learning_rate == best.trial.point["optimizer.learning-rate"]
    assert config.ticks == 20
    # only the best one has checkpoints left
    there = [path.parent.name for path in whole.glob("trials/*/checkpoints")]
    assert there == [run.name]


def test_a_study_that_was_stopped_goes_on_as_if_it_had_not_been(
    whole: Path, tmp_path: Path
) -> None:
    """In the middle of its first two trials, which go on after their last ticks."""
    study = begun(tmp_path / "study", seeds=2)
    with stop_at(17):  # of the default
        assert searched(study, "8runs") == signal.SIGTERM
    assert searched(study, "1runs") is None
    with stop_at(7):
        assert searched(study, "8runs") == signal.SIGTERM
    assert [each.result is None for each in study.known()] == [False, True]
    again = open_study(tmp_path / "study")
    assert searched(again, "8runs") is None
    assert [len(open_run(again.run(number)).attempts) for number in (0, 1, 2)] == [2, 2, 1]
    expected = open_study(whole).known()
    assert [(one.trial, one.value) for one in again.known()] == [
        (one.trial, one.value) for one in expected
    ]


def test_short_runs_come_first_and_the_best_of_them_become_longer(tmp_path: Path) -> None:
    study = begun(tmp_path / "study", method="halving", shares=[1 / 4, 1.0], seeds=1)
    assert searched(study, "6runs") is None
    known = study.known()
    assert known[0].trial.rung == 1  # the default, whole
    assert known[1].trial.point == known[0].trial.point  # and short
    short = [each for each in known if each.trial.rung == 0]
    long = [each for each in known if each.trial.rung == 1 and each.trial.role == "search"]
    assert len(short) >= 6
    assert long
    best_short = min(short, key=lambda each: each.value or 9e9)
    assert best_short.trial.point in [each.trial.point for each in long]
    for each in short:
        rows = open_run(study.run(each.trial.number)).ticks().rows()
        assert len(rows) == 5
        assert rows[-1]["learning_rate"] < rows[2]["learning_rate"]  # its own whole schedule
    assert cost(known).runs <= 6


def test_trials_that_fail_are_results(tmp_path: Path) -> None:
    """Divergence, too little memory, options that do not go together: the search goes on."""
    failing: dict[int, Exception] = {
        1: DivergenceError("the loss must be finite"),
        2: OutOfMemoryError("a micro-batch must fit"),
        3: RuntimeError("a bug of the recipe's"),
    }
    seen: list[int] = []

    def made(config: Config) -> Any:
        seen.append(len(seen))
        if seen[-1] in failing:
            raise failing[seen[-1]]
        return task(config)

    study = begun(tmp_path / "study", seeds=1, space={**SPACE, "heads": {"integers": [1, 3]}})
    assert searched(study, "5runs", make=made) is None
    statuses = cost(study.known()).statuses
    assert statuses["done"] == 5
    assert statuses["diverged"] == statuses["out of memory"] == statuses["failed"] == 1
    assert statuses["conflict"] > 0
    reasons = [each.result.reason for each in study.known() if each.result]
    assert any("heads must divide hidden" in reason for reason in reasons)


def test_trials_have_the_precision_of_the_first_and_never_read_the_test_set(tmp_path: Path) -> None:
    config = Config(precision="auto", allocator="auto")
    study = begun(tmp_path / "study", config, seeds=1)

    def made(config: Config) -> Any:
        return replace(task(config), test=lambda: pytest.fail("the test set was read"))

    assert searched(study, "3runs", config, make=made) is None
    assert [each.value is not None for each in study.known()] == [True] * 3
    (first,) = read_events(open_run(study.run(0)).events(), "event = 'machine'")
    for number in (1, 2):
        plain = read_run_info(study.run(number)).config
        assert {name: plain[name] for name in first.fields} == first.fields


def test_what_is_wrong_with_the_config_itself_is_an_error(tmp_path: Path) -> None:
    def wrong(config: Config) -> Any:
        raise ConfigError("a task must be right", got="wrong")

    study = begun(tmp_path / "study")
    with pytest.raises(ConfigError, match="a task must be right"):
        searched(study, "5runs", make=wrong)
    without = begun(tmp_path / "without")
    with pytest.raises(ConfigError, match="validation set"):
        searched(without, "5runs", make=lambda config: replace(task(config), validation=None))


def test_a_space_without_a_point_that_goes_ends(tmp_path: Path) -> None:
    space = {"hidden": {"choices": [5, 7]}, "heads": {"choices": [2, 3]}}
    with pytest.raises(ConfigError, match="50 in a row"):
        searched(begun(tmp_path / "study", space=space), "5runs")


def test_a_full_disk_is_one_error_and_the_study_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = begun(tmp_path / "study", seeds=1)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr("metronorm.tune.study.write_atomic", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(RunError, match=r"have room.*No space left"):
            searched(study, "3runs")
    assert searched(study, "3runs") is None
    assert [each.trial.number for each in study.known()] == [0, 1, 2]


def test_equal_tokens_means_as_many_examples(tmp_path: Path) -> None:
    space = {"batch-size": {"choices": [4, 8, 16]}}
    study = begun(tmp_path / "study", space=space, equal="tokens", seeds=1)
    assert searched(study, "6runs") is None
    for each in study.known():
        config = read_toml(study.run(each.trial.number) / "config.toml")
        assert config["ticks"] * config["batch_size"] == 160


def test_equal_seconds_means_minutes(tmp_path: Path) -> None:
    config = Config(minutes=0.2 / 60)
    study = begun(tmp_path / "study", config, equal="seconds", seeds=1)
    assert searched(study, "0.7s", config) is None
    known = study.known()
    assert len(known) >= 2
    assert all(each.result and each.result.status == "done" for each in known)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "number of runs"), ("40", "40runs"), ("0runs", "allow one run"), ("0.5runs", "one run"),
     ("-3m", "number of runs"), ("3 weeks", "number of runs"), ("0s", "number of runs")],
)  # fmt: skip
def test_no_budget(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_budget(text)


def test_budgets() -> None:
    assert [parse_budget(text).seconds for text in ("90s", "10m", "1.5h")] == [90, 600, 5400]
    assert parse_budget("40runs").runs == 40


def test_damaged_files_are_named(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "study")
    (tmp_path / "study" / "trials" / "003" / "result.json").write_text("{")
    with pytest.raises(RunError, match=r"003/result\.json"):
        open_study(tmp_path / "study").known()
    (tmp_path / "study" / "study.json").write_text('{"version": 99, "config": {}}')
    with pytest.raises(RunError):
        open_study(tmp_path / "study")
    with pytest.raises(RunError, match="there must be a study"):
        open_study(tmp_path)
    with pytest.raises(RunError, match="directory of its own"):
        begun(tmp_path)


def test_a_trial_that_was_killed_before_its_run_was_there_begins_anew(tmp_path: Path) -> None:
    study = begun(tmp_path / "study", seeds=1)
    searched(study, "1runs")
    left = study.run(0)
    (left / "result.json").unlink()
    (left / "run.json").unlink()
    again = open_study(tmp_path / "study")
    assert searched(again, "1runs") is None
    value = again.known()[0].value
    assert value is not None
    # one that was killed between its last tick and its result has the same
    (left / "result.json").unlink()
    again = open_study(tmp_path / "study")
    assert searched(again, "1runs") is None
    assert again.known()[0].value == value
    assert open_run(left).ticks().rows()[-1]["tick"] == 20


def test_nothing_is_said_between_the_lines_of_a_study(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = begun(tmp_path / "study", seeds=1)
    with at_every_tick(lambda tick: None):
        searched(study, "2runs")
    assert capfd.readouterr() == ("", "")
    assert "training" in (study.run(1) / running_module.LOG).read_text()
