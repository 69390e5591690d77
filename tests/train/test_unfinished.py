"""An exception of the user's own code ends a training: no finished tick is lost by it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metronorm.checkpoints.folder import checkpoint_paths, newest_checkpoint
from metronorm.runs import open_run
from metronorm.train import Hook, Moment, OptimizerConfig, Task, train

from .stranger import Config, loss, measure, small, task

LAST = 7  # the tick that is finished; in the next one is an evaluation


def config(**changes: Any) -> Config:
    return small(**{"ticks": 12, "evaluate_every": 4, "checkpoint_every": 1000} | changes)


def history(run: Path) -> list[tuple[Any, ...]]:
    return [(row["tick"], row["loss"]) for row in open_run(run).ticks().rows()]


def saved(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoint_paths(run / "checkpoints")]


class Bomb:
    """Raises an error; what belongs to a tick after `LAST`, at the given call of that tick."""

    def __init__(self, error: BaseException, call: int = 2) -> None:
        self.error, self.call, self.calls, self.last = error, call, 0, 0

    def count(self, moment: Moment) -> None:
        self.last = moment.tick

    def tick(self) -> None:
        if self.last == LAST:
            self.calls += 1
            if self.calls == self.call:
                raise self.error

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            self.tick()
        return loss(model, batch)

    def measure(self, model: nn.Module, batch: Any) -> Any:
        if self.last == LAST:  # so it is the evaluation of the next tick, before its hooks
            raise self.error
        return measure(model, batch)

    def hook(self, moment: Moment) -> None:
        if moment.tick == LAST:
            raise self.error

    @contextlib.contextmanager
    def around(self, moment: Moment) -> Iterator[None]:
        yield
        self.hook(moment)


class BrokenOrder:
    def __init__(self, order: Any, bomb: Bomb) -> None:
        self.order, self.bomb = order, bomb

    def take(self, first: int, size: int) -> Any:
        self.bomb.tick()
        return self.order.take(first, size)


class BrokenLoader:
    def __init__(self, loader: Any, bomb: Bomb) -> None:
        self.loader, self.bomb = loader, bomb

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.bomb.tick()
            yield batch


def broken(bomb: Bomb, where: str, **changes: Any) -> Any:
    counting = Hook(1, bomb.count)
    hooks = {
        "hook": [counting, Hook(1, bomb.hook)],
        "around": [counting, Hook(1, lambda moment: None, around=bomb.around)],
    }

    def made(config: Config) -> Task:
        whole = replace(task(config), hooks=hooks.get(where, [counting]), **changes)
        wrappers: dict[str, Any] = {"order": BrokenOrder, "loader": BrokenLoader}
        if kind := wrappers.get(where):
            return replace(whole, batches=kind(whole.batches, bomb))
        own = {"loss": bomb.loss} if where == "loss" else {}
        own |= {"measure": bomb.measure} if where == "measure" else {}
        return replace(whole, **own)

    return made


@pytest.mark.parametrize("where", ["measure", "hook", "around", "loss", "order", "loader"])
def test_the_newest_finished_tick_is_saved(tmp_path: Path, where: str) -> None:
    chosen = config(batches="loader" if where == "loader" else "order")
    error = LookupError("of my own")
    sound = broken(Bomb(error, call=0), where) if where == "loader" else task
    whole = train(sound, chosen, tmp_path / "whole")
    with pytest.raises(LookupError) as caught:
        train(broken(Bomb(error), where), chosen, tmp_path / "run")
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None
    last = LAST + (where == "measure")
    assert saved(tmp_path / "run")[-1] == last
    assert len(history(tmp_path / "run")) == last, "its record too"
    again = train(sound, chosen, tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    assert again.measures == whole.measures


def test_an_evaluation_that_raised_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LookupError):
        train(broken(Bomb(LookupError()), "measure"), config(), tmp_path / "run")
    train(task, config(), tmp_path / "run", resume=True)
    rows = open_run(tmp_path / "run").ticks().rows()
    assert [row["tick"] for row in rows if row["validation_loss"] is not None] == [4, 12]


class Centred(nn.Module):
    """Has another tensor for its buffer after every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, batch: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * batch.detach().mean(0)
        return batch - self.mean


@pytest.mark.parametrize("kind", [lambda: nn.BatchNorm1d(8), Centred])
def test_statistics_that_the_unfinished_tick_has_changed_are_put_back(
    tmp_path: Path, kind: Any
) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), kind(), nn.Linear(8, 3))

    def whole(config: Config) -> Task:
        return replace(task(config), model=model)

    expected = train(whole, config(), tmp_path / "whole").measures
    bomb = Bomb(LookupError())
    with pytest.raises(LookupError):
        train(broken(bomb, "loss", model=model), config(), tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == LAST
    assert train(whole, config(), tmp_path / "run", resume=True).measures == expected


@pytest.mark.parametrize(("call", "ticks"), [(1, [LAST]), (2, [])])
def test_sums_that_cannot_be_put_back_are_not_saved(
    tmp_path: Path, call: int, ticks: list[int]
) -> None:
    """After the first beat of a tick the optimizer's sum has a part of its gradient."""
    chosen = config(optimizer=OptimizerConfig(name="ticks", learning_rate=1e-2))
    unmeasured = {"validation": None, "test": None}
    train(broken(Bomb(LookupError(), 0), "", **unmeasured), chosen, tmp_path / "whole")
    with pytest.raises(LookupError):
        train(broken(Bomb(LookupError(), call), "loss", **unmeasured), chosen, tmp_path / "run")
    assert saved(tmp_path / "run") == ticks
    train(task, chosen, tmp_path / "run", resume=True)
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_a_half_made_update_is_not_saved(tmp_path: Path) -> None:
    def raising(*_: Any) -> None:
        raise LookupError

    def arm(moment: Moment) -> None:
        if moment.tick == LAST:
            moment.optimizer.register_step_post_hook(raising)

    def armed(config: Config) -> Task:
        return replace(task(config), hooks=[Hook(1, arm)], validation=None)

    with pytest.raises(LookupError):
        train(armed, config(), tmp_path / "run")
    assert saved(tmp_path / "run") == []


def test_an_interrupt_does_not_wait_for_a_checkpoint(tmp_path: Path) -> None:
    def made(config: Config) -> Task:
        return replace(broken(Bomb(KeyboardInterrupt()), "hook")(config), validation=None)

    with pytest.raises(KeyboardInterrupt):
        train(made, config(), tmp_path / "run")
    assert saved(tmp_path / "run") == []


def test_sys_exit_in_a_hook_saves_too(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        train(broken(Bomb(SystemExit(3)), "hook"), config(), tmp_path / "run")
    assert saved(tmp_path / "run")[-1] == LAST


def test_a_disk_that_is_gone_does_not_hide_the_exception(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def remove(moment: Moment) -> None:
        if moment.tick == LAST:
            (moment.directory / "checkpoints").rmdir()
            (moment.directory / "checkpoints").write_text("no folder")
            raise LookupError("of my own")

    def made(config: Config) -> Task:
        return replace(task(config), hooks=[Hook(1, remove)], validation=None)

    with pytest.raises(LookupError, match="of my own"):
        train(made, config(), tmp_path / "run")
    assert f"no checkpoint at tick {LAST}" in caplog.text


def test_a_branch_that_fails_before_it_begins_changes_nothing(tmp_path: Path) -> None:
    train(task, config(keep=9, checkpoint_every=4), tmp_path / "run")

    def failing(*_: Any) -> None:
        raise LookupError

    def made(config: Config) -> Task:
        return replace(task(config), save=failing)

    before = newest_checkpoint(tmp_path / "run" / "checkpoints").state
    with pytest.raises(LookupError):
        train(made, config(keep=9), tmp_path / "run", resume=True, from_tick=4)
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").state == before
