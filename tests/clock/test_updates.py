from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from metronorm.clock.hooks import Watch
from metronorm.optim import Ticks

from .training import BACKWARD, DATA, FORWARD, TICK, UPDATE, Descent, Training


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "run")


def watch(training: Training) -> Watch:
    return Watch(training.clock, training.model, training.optimizer, training.loader)


def test_of_several_optimizers_the_first_makes_ticks(training: Training) -> None:
    other = Descent([nn.Parameter(torch.ones(1))], training.time)
    with Watch(training.clock, training.model, [training.optimizer, other]):
        for _ in range(3):
            training.beat(torch.ones(1, 2))
            other.step()
            training.optimizer.step()
            other.step()
    assert [tick["update"] for tick in training.phases()] == [3 * UPDATE] * 3


def test_two_steps_in_a_row_are_two_ticks(training: Training) -> None:
    with watch(training):
        for x in training.loader:
            training.turn(x)
            training.optimizer.step()
    found = training.phases()
    assert found == [TICK, {"update": UPDATE}] * 4


def test_a_closure_runs_its_beats_inside_the_step(training: Training) -> None:
    def closure() -> Any:
        training.beat(next(batches))
        training.beat(next(batches))

    with watch(training):
        batches = iter(training.loader)
        for _ in range(2):
            training.optimizer.step(closure)
    two = {name: 2 * ns for name, ns in TICK.items()} | {"update": UPDATE}
    assert [(tick["beats"], tick["phases"]) for tick in training.ticks()] == [(2, two)] * 2


def test_a_step_inside_a_step_is_one(training: Training) -> None:
    class Inheriting(Descent):
        def step(self, closure: Any = None) -> Any:
            self.time.pass_(1)
            return super().step(closure)

    training.optimizer = Inheriting(training.model.parameters(), training.time)
    with watch(training):
        for x in training.loader:
            training.turn(x)
    assert training.phases() == [TICK | {"update": UPDATE + 1}] * 4


@pytest.mark.parametrize("with_closure", [False, True])
def test_a_step_that_fails_is_no_tick(training: Training, with_closure: bool) -> None:
    class Failing(Descent):
        fails = False

        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            if self.fails:
                raise OverflowError
            return loss

    training.optimizer = optimizer = Failing(training.model.parameters(), training.time)
    with watch(training):
        for number, x in enumerate(training.loader):
            optimizer.fails = number == 1
            try:
                if with_closure:
                    optimizer.step(lambda x=x: training.beat(x))
                else:
                    training.turn(x)
            except OverflowError:
                training.time.pass_(100)
    found = training.ticks()
    assert [tick["beats"] for tick in found] == [1, 2, 1]
    two = {name: 2 * ns for name, ns in TICK.items()}
    two["update"] += 100  # nobody knows that it has failed, before the loop goes on
    assert [tick["phases"] for tick in found] == [TICK, two, TICK]


def test_a_step_that_fails_inside_a_phase_of_the_loop(training: Training) -> None:
    def fail() -> Any:
        raise OverflowError

    def loop(closure: Any) -> None:
        with training.clock.phase("epoch"):
            training.time.pass_(1)
            training.optimizer.step(closure)

    with Watch(training.clock, training.model, training.optimizer):
        for _ in range(2):
            training.beat(torch.ones(1, 2))
            with pytest.raises(OverflowError):
                loop(fail)
            training.time.pass_(100)
            loop(None)
    each = {"forward": FORWARD, "backward": BACKWARD, "update": UPDATE}
    assert training.phases() == [each | {"epoch": 2, "unattributed": 100}] * 2


def test_a_failed_step_may_be_repeated(training: Training) -> None:
    fails = iter([True, False] * 2)

    def closure() -> Any:
        training.time.pass_(1)
        if next(fails):
            raise OverflowError

    with Watch(training.clock, optimizer=training.optimizer):
        for _ in range(2):
            with pytest.raises(OverflowError):
                training.optimizer.step(closure)
            training.optimizer.step(closure)
    assert [tick["update"] for tick in training.phases()] == [1 + 1 + UPDATE] * 2


def test_a_step_that_grad_scaler_skips_is_no_tick(training: Training) -> None:
    scaler = GradScaler("cpu")
    with watch(training):
        for number, x in enumerate(training.loader):
            loss = training.model(x).sum() * (float("inf") if number == 1 else 1.0)
            training.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(training.optimizer)
            scaler.update()
    assert [tick["beats"] for tick in training.ticks()] == [1, 2, 1]


@pytest.mark.parametrize("kind", [Ticks, torch.optim.AdamW, torch.optim.LBFGS])
def test_optimizers(training: Training, kind: Any) -> None:
    training.optimizer = optimizer = kind(training.model.parameters(), lr=1e-3)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = training.model(x).square().sum()
        loss.backward()
        return loss

    with watch(training):
        for x in training.loader:  # noqa: B007 - the closure's
            optimizer.step(closure)
    found = training.ticks()
    assert [tick["tick"] for tick in found] == [1, 2, 3, 4]
    for tick in found:
        beats = tick["beats"]
        assert tick["phases"] == {
            "data": DATA, "forward": beats * FORWARD, "backward": beats * BACKWARD
        }  # fmt: skip


def test_a_scheduler_before_or_after(training: Training) -> None:
    torch.optim.lr_scheduler.StepLR(training.optimizer, 1)
    with watch(training):
        scheduler = torch.optim.lr_scheduler.StepLR(training.optimizer, 1)
        for x in training.loader:
            training.turn(x)
            scheduler.step()
    assert training.phases() == [TICK] * 4


def test_accelerate(training: Training) -> None:
    accelerator = pytest.importorskip("accelerate").Accelerator(gradient_accumulation_steps=2)
    model, optimizer, loader = accelerator.prepare(
        training.model, training.optimizer, training.loader
    )
    with Watch(training.clock, model, optimizer, loader):
        for x in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(x).sum())
                optimizer.step()
                optimizer.zero_grad()
    found = training.ticks()
    assert [tick["beats"] for tick in found] == [2, 2]
    # its loader is one batch ahead
    assert [tick["phases"]["data"] for tick in found] == [3 * DATA, DATA]


def test_fabric(training: Training) -> None:
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model, optimizer = fabric.setup(training.model, training.optimizer)
    loader = fabric.setup_dataloaders(training.loader)
    with Watch(training.clock, model, optimizer, loader):
        for x in loader:
            optimizer.zero_grad()
            fabric.backward(model(x).sum())
            optimizer.step()
    assert training.phases() == [TICK] * 4
