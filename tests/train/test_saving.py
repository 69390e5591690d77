"""A checkpoint is written by another thread, while the training goes on."""

import errno
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metronorm.checkpoints import checkpoint
from metronorm.checkpoints.folder import checkpoint_at, checkpoint_paths
from metronorm.errors import DivergenceError
from metronorm.runs import open_run
from metronorm.train import Hook, Moment, saving, train

from ..store.stores import until
from .stranger import Config, small, task

Write = Callable[..., Path]
WRITE: Write = checkpoint.write


def config(**changes: Any) -> Config:
    return small(**{"ticks": 9, "evaluate_every": 100, "checkpoint_every": 4, "keep": 9} | changes)


def hooked(action: Callable[[Moment], object]) -> Callable[[Config], Any]:
    return lambda config: replace(task(config), hooks=[Hook(1, action)], validation=None, test=None)


def events(run: Path, *names: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Tick, name and fields of the events of these names."""
    return [
        (row["tick"], row["event"], json.loads(row["fields"]))
        for row in open_run(run).events().rows()
        if row["event"] in names
    ]


def saved(run: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoint_paths(run / "checkpoints")]


class Slow:
    """Writes of checkpoints of which the first waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, write: Write = WRITE) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.write, self.running, self.most = write, 0, 0
        monkeypatch.setattr(checkpoint, "write", self)

    def __call__(self, *arguments: Any) -> Path:
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.set()
        self.let_go.wait()
        try:
            return self.write(*arguments)
        finally:
            self.running -= 1


def test_ticks_go_on_and_the_checkpoint_is_of_its_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, weights = Slow(monkeypatch), dict[int, Tensor]()

    def look(moment: Moment) -> None:
        weights[moment.tick] = moment.model.state_dict()["0.weight"].clone()
        if moment.tick == 7:
            slow.begun.wait()
            assert saved(tmp_path) == [], "of tick 4, begun in tick 5"
            slow.let_go.set()

    train(hooked(look), config(), tmp_path)
    for tick in (4, 8, 9):
        model = task(config()).model()
        checkpoint_at(tmp_path / "checkpoints", tick).load_model(model)
        assert torch.equal(model.state_dict()["0.weight"], weights[tick])
    size = sum(each.nbytes for each in model.state_dict().values())
    fields = [fields for *_, fields in events(tmp_path, "checkpoint")]
    assert [each["path"] for each in fields] == [f"tick-0000000{tick}" for tick in (4, 8, 9)]
    count = len(list(model.parameters()))
    assert {each["bytes"] for each in fields} == {3 * size + 4 * count}, "AdamW: two more, a step"


def test_a_checkpoint_waits_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, last = Slow(monkeypatch), 0

    def look(moment: Moment) -> None:
        nonlocal last
        last = moment.tick

    def let_go() -> None:
        until(lambda: last == 2)  # the next tick will wait
        slow.let_go.set()

    helper = threading.Thread(target=let_go)
    helper.start()
    train(hooked(look), config(checkpoint_every=1), tmp_path)
    helper.join()
    assert slow.most == 1
    assert saved(tmp_path) == [*range(1, 10)]


def test_the_same_memory_holds_the_next_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def looking(folder: Path, taken: checkpoint.Taken, *world: Any) -> Path:
        parts = {**taken.model, **taken.state}
        places.append({name: part.local.data_ptr() for name, part in parts.items()})
        return WRITE(folder, taken, *world)

    monkeypatch.setattr(checkpoint, "write", looking)
    train(hooked(lambda _: None), config(ema=0.9), tmp_path)
    assert len(places) == 3
    assert places[0] == places[1] == places[2]


def no_room(*_: Any) -> Path:
    raise OSError(errno.EIO, "of the disk")


def test_a_failure_is_reported_at_the_next_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow(monkeypatch, no_room)

    def look(moment: Moment) -> None:
        if moment.tick == 6:
            slow.let_go.set()
            until(lambda: not is_writing())
            slow.write = WRITE

    with caplog.at_level(logging.WARNING):
        outcome = train(hooked(look), config(), tmp_path)
    assert outcome.saved == 9
    assert saved(tmp_path) == [8, 9]
    ((tick, _, fields),) = events(tmp_path, "checkpoint failed")
    assert (tick, "of the disk" in fields["error"]) == (7, True)
    assert "no checkpoint at tick 4" in caplog.text


def is_writing() -> bool:
    return any(thread.name == "metronorm-checkpoint" for thread in threading.enumerate())


def test_another_error_than_the_disk_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Path:
        raise LookupError("a mistake of ours")

    monkeypatch.setattr(checkpoint, "write", broken)
    with pytest.raises(LookupError, match="a mistake of ours"):
        train(hooked(lambda _: None), config(), tmp_path)


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_what_was_begun_is_finished_before_an_exception_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    slow = Slow(monkeypatch)

    def look(moment: Moment) -> None:
        if moment.tick == 6:
            slow.begun.wait()
            slow.let_go.set()
            raise error

    with pytest.raises(error):
        train(hooked(look), config(), tmp_path)
    assert saved(tmp_path) == [4, 6]
    assert len(events(tmp_path, "checkpoint")) == 2


def test_an_interrupt_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)

    def look(moment: Moment) -> None:
        if moment.tick == 6:
            slow.begun.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(hooked(look), config(), tmp_path)
    assert saved(tmp_path) == []
    slow.let_go.set()
    until(lambda: not is_writing())
    assert saved(tmp_path) == [4], "what was begun ends before the process does"


def test_what_was_begun_is_finished_before_a_divergence_ends_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)

    def look(moment: Moment) -> None:
        if moment.tick == 6:
            slow.let_go.set()
            with torch.no_grad():
                next(moment.model.parameters()).fill_(torch.nan)

    with pytest.raises(DivergenceError):
        train(hooked(look), config(), tmp_path)
    assert saved(tmp_path) == [4]


def test_a_large_training_on_a_cpu_writes_its_checkpoints_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = []

    def write(*arguments: Any) -> Path:
        writers.append(threading.current_thread())
        return WRITE(*arguments)

    monkeypatch.setattr(checkpoint, "write", write)
    train(task, config(), tmp_path / "copied")
    assert threading.main_thread() not in writers
    writers.clear()
    monkeypatch.setattr(saving, "_MOST_COPIED", 1000)
    train(task, config(), tmp_path / "large")
    assert set(writers) == {threading.main_thread()}
    assert {fields["bytes"] for *_, fields in events(tmp_path / "large", "checkpoint")} == {0}
    for tick in saved(tmp_path / "copied"):
        copied, large = (
            checkpoint_at(tmp_path / run / "checkpoints", tick).path for run in ("copied", "large")
        )
        for name in ("model.safetensors", "state.safetensors"):
            assert (large / name).read_bytes() == (copied / name).read_bytes()


def test_a_full_disk_is_logged_by_a_large_training_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any) -> Path:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    monkeypatch.setattr(saving, "_MOST_COPIED", 0)
    with caplog.at_level(logging.WARNING, "metronorm"):
        assert train(task, config(), tmp_path).tick == 9
    assert [name for _, name, _ in events(tmp_path, "checkpoint", "checkpoint failed")] == [
        "checkpoint failed"
    ] * 3
    assert "no space left" in caplog.text
