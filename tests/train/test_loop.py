import json
import logging
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metronorm.checkpoints import checkpoint
from metronorm.checkpoints.folder import (
    best_checkpoint,
    best_score,
    checkpoint_paths,
    newest_checkpoint,
)
from metronorm.errors import ConfigError, DataError, RunError
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.train import train
from metronorm.train.step import Step

from ..full_disk import fill, small_disk
from ..store.stores import until
from .acting import at_every_tick
from .tiny import losses, tiny_config


def events(run: Path) -> list[str]:
    return [row["event"] for row in open_run(run).events().rows()]


def test_a_training_from_text_to_checkpoints(tmp_path: Path) -> None:
    outcome = train(text.task, tiny_config(tmp_path), tmp_path / "run")
    found = losses(tmp_path / "run")
    assert [tick for tick, *_ in found] == list(range(1, 31))
    assert found[-1][1] < found[0][1] - 0.1, "it learns"
    assert [tick for tick, _, evaluated in found if evaluated is not None] == [10, 20, 30]
    assert outcome.measures["loss"] == found[-1][2]
    assert outcome.tick == 30
    assert outcome.signal is None
    best = min((loss, tick) for tick, _, loss in found if loss is not None)[1]
    assert [path.name for path in checkpoint_paths(tmp_path / "run" / "checkpoints")] == [
        f"tick-{tick:08d}" for tick in sorted({25, 30, best})
    ]
    assert "machine" in events(tmp_path / "run")


def test_chance_level_at_the_start(tmp_path: Path) -> None:
    """The first loss is that of a uniform guess: nothing in the averaging is off by a factor."""
    train(text.task, tiny_config(tmp_path, ticks=1, micro_batches=3), tmp_path / "run")
    (_, loss, _) = losses(tmp_path / "run")[0]
    vocabulary = len(set("".join(p.read_text() for p in (tmp_path / "text").iterdir())))
    assert loss == pytest.approx(math.log(vocabulary), abs=0.05)


@pytest.mark.parametrize("evaluate_every", [10, 7])
def test_resumed_is_bit_for_bit_the_uninterrupted(tmp_path: Path, evaluate_every: int) -> None:
    config = tiny_config(tmp_path)
    train(text.task, config, tmp_path / "whole")
    first = replace(config, evaluate_every=evaluate_every)

    def stop(tick: int) -> None:
        if tick == 17:
            os.kill(os.getpid(), signal.SIGTERM)

    with at_every_tick(stop):
        outcome = train(text.task, first, tmp_path / "run")
    assert outcome.signal is signal.SIGTERM
    assert outcome.tick == 17
    # the checkpoint took its time after the last tick
    found = events(tmp_path / "run")
    assert found[-3:] == ["checkpoint", "between", "end"]
    assert set(found[found.index("signal") + 1 : -2]) == {"checkpoint"}
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == 17
    train(text.task, config, tmp_path / "run", resume=True)
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "run")
    assert [row[:2] for row in resumed] == [row[:2] for row in whole]
    assert resumed[-1] == whole[-1]
    assert open_run(tmp_path / "run").attempts == [0, 1]


def test_a_checkpoint_comes_after_the_record_of_its_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill between the two would leave a run that goes on behind a tick it never told of."""
    write, checked = checkpoint.write, []

    def after(folder: Path, taken: checkpoint.Taken, *world: Any) -> Path:
        assert losses(tmp_path / "run")[-1][0] >= taken.tick
        checked.append(taken.tick)
        return write(folder, taken, *world)

    monkeypatch.setattr(checkpoint, "write", after)
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGTERM) if tick == 12 else None):
        train(text.task, tiny_config(tmp_path), tmp_path / "run")
    train(text.task, tiny_config(tmp_path), tmp_path / "run", resume=True)
    assert checked == [5, 10, 12, 15, 20, 25, 30]


def test_no_tick_pays_for_the_making_of_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick, made = Step.tick, []

    def looking(self: Step, *arguments: Any, **options: Any) -> None:
        made.append("optimizer" in vars(self))
        tick(self, *arguments, **options)

    monkeypatch.setattr(Step, "tick", looking)
    train(text.task, tiny_config(tmp_path, ticks=2), tmp_path / "run")
    assert made == [True, True]


def test_ctrl_c_finishes_the_tick_and_saves(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs this in the background
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGINT) if tick == 3 else None):
        outcome = train(text.task, tiny_config(tmp_path), tmp_path / "run")
    assert outcome.signal is signal.SIGINT
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == 3
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("before", "noted"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_terminal_that_is_closed(tmp_path: Path, before: Any, noted: bool) -> None:
    """It ends the training as SIGTERM does; `nohup` has its signal ignored."""
    outside = signal.signal(signal.SIGHUP, before)
    try:
        with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGHUP) if tick == 3 else None):
            outcome = train(text.task, tiny_config(tmp_path, ticks=5), tmp_path / "run")
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, outside)
    assert outcome.signal is (signal.SIGHUP if noted else None)
    assert outcome.saved == outcome.tick == (3 if noted else 5)


def test_ctrl_c_twice_leaves_at_once(tmp_path: Path) -> None:
    def twice(tick: int) -> None:
        if tick == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with at_every_tick(twice), pytest.raises(KeyboardInterrupt):
        train(text.task, tiny_config(tmp_path), tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 2


def test_a_directory_that_holds_a_run(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=2)
    train(text.task, config, tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError, match="which holds the run 'run'"):
        train(text.task, config, tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=2)
    with pytest.raises(RunError, match="which does not exist"):
        train(text.task, config, tmp_path / "run", resume=True)
    train(text.task, config, tmp_path / "run")
    other = replace(config, seed=5, model=replace(config.model, layers=2, width=32))
    with pytest.raises(ConfigError) as caught:
        train(text.task, other, tmp_path / "run", resume=True)
    for difference in ("seed: 0 in", "model.layers: 1 in", "model.width: 16 in"):
        assert difference in str(caught.value)
    (tmp_path / "text" / "0.txt").write_text("abc abc\n" * 100)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match="must have the data it was begun with"):
        train(text.task, config, tmp_path / "run", resume=True)
    assert open_run(tmp_path / "run").attempts == [0]


def test_resume_passes_over_a_damaged_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path)
    train(text.task, config, tmp_path / "whole")
    train(text.task, config, tmp_path / "run")
    newest = checkpoint_paths(tmp_path / "run" / "checkpoints")[-1] / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        train(text.task, config, tmp_path / "run", resume=True)
    assert "passing over a damaged checkpoint" in caplog.text
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == 30


def test_a_full_disk_does_not_stop_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        ballast: list[Path] = []

        def act(tick: int) -> None:
            if tick == 12:
                ballast.append(fill(disk))
            if tick == 22:
                ballast.pop().unlink()

        with at_every_tick(act), caplog.at_level(logging.WARNING):
            outcome = train(text.task, tiny_config(tmp_path, keep=1), disk / "run")
        assert outcome.saved == outcome.tick == 30
        assert "no checkpoint at tick 15" in caplog.text
        assert "no checkpoint at tick 20" in caplog.text
        assert [tick for tick, *_ in losses(disk / "run")] == [*range(1, 31)], "kept in memory"
        assert newest_checkpoint(disk / "run" / "checkpoints").tick == 30
        assert not list((disk / "run" / "checkpoints").glob(".*"))


def test_the_best_is_saved_when_it_is_found(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, evaluate_every=7, checkpoint_every=30, keep=1)
    train(text.task, config, tmp_path / "run")
    evaluated = {tick: loss for tick, _, loss in losses(tmp_path / "run") if loss is not None}
    assert [*evaluated] == [7, 14, 21, 28, 30]
    best = min(evaluated, key=evaluated.__getitem__)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in checkpoint_paths(folder)] == [
        f"tick-{tick:08d}" for tick in sorted({best, 30})
    ]
    assert events(tmp_path / "run").count("checkpoint") > 1, "it falls"
    found = best_checkpoint(folder)
    assert found is not None
    assert found.state["measures"]["loss"] == evaluated[best]


def test_a_resumed_run_saves_only_what_is_better_than_before(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, evaluate_every=1, checkpoint_every=100)
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGTERM) if tick == 9 else None):
        train(text.task, config, tmp_path / "run")
    before = best_score(tmp_path / "run" / "checkpoints")
    train(text.task, config, tmp_path / "run", resume=True)
    run = open_run(tmp_path / "run")
    saved = [
        int(json.loads(row["fields"])["path"].removeprefix("tick-"))
        for row in run.events().rows()
        if row["event"] == "checkpoint" and row["attempt"] == 1
    ]
    lowest, expected = before, []
    for tick, _, loss in losses(tmp_path / "run")[9:]:
        assert loss is not None
        if loss < lowest or tick == 30:
            lowest = min(loss, lowest)
            expected.append(tick)
    assert saved == expected


def test_a_signal_does_not_wait_for_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path)
    train(text.task, config, tmp_path / "whole")
    sums, seen = Step.sums, 0

    def watched(self: Step, batch: Any) -> dict[str, Any]:
        nonlocal seen
        seen += 1
        if seen > 3:  # before the training a batch and its halves, to see what is measured
            os.kill(os.getpid(), signal.SIGTERM)
        return sums(self, batch)

    monkeypatch.setattr(Step, "sums", watched)
    outcome = train(text.task, config, tmp_path / "run")
    monkeypatch.undo()
    assert seen == 4
    assert (outcome.tick, outcome.saved, outcome.measures) == (10, 10, {})
    assert outcome.signal is signal.SIGTERM
    assert losses(tmp_path / "run")[-1][2] is None, "half an evaluation is none"
    train(text.task, config, tmp_path / "run", resume=True)
    whole, resumed = losses(tmp_path / "whole"), losses(tmp_path / "run")
    assert [row[:2] for row in resumed] == [row[:2] for row in whole]


def test_a_signal_does_not_wait_for_a_sample(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, sample_every=1, sample_tokens=10_000_000)
    with at_every_tick(lambda _: os.kill(os.getpid(), signal.SIGTERM)):
        outcome = train(text.task, config, tmp_path / "run")
    assert (outcome.tick, outcome.saved) == (1, 1)
    assert "sample" not in events(tmp_path / "run")


def test_a_full_disk_at_the_end_is_no_success(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        written = disk / "run" / "checkpoints" / "tick-00000025"

        def act(tick: int) -> None:
            if tick == 27:
                until(written.exists)
                fill(disk)

        with at_every_tick(act):
            outcome = train(
                text.task, tiny_config(tmp_path, keep=1, evaluate_every=30), disk / "run"
            )
        assert (outcome.tick, outcome.saved) == (30, 25)
        assert newest_checkpoint(disk / "run" / "checkpoints").tick == 25
        (disk / "ballast").unlink()
        outcome = train(text.task, tiny_config(tmp_path), disk / "run", resume=True)
        assert (outcome.tick, outcome.saved) == (30, 30)


def test_a_full_disk_makes_room_for_a_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        with at_every_tick(lambda tick: fill(disk) if tick == 27 else None):
            outcome = train(text.task, tiny_config(tmp_path, keep=3), disk / "run")
        folder = disk / "run" / "checkpoints"
        assert outcome.saved == newest_checkpoint(folder).tick == 30
        assert "no checkpoint" not in caplog.text
        assert not list(folder.glob(".*"))


def test_a_corpus_shorter_than_one_context(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(DataError, match="context"):
        train(
            text.task,
            replace(config, evaluate_tokens=0, model=replace(config.model, context=100_000)),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
