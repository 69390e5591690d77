"""A tick never waits for the device, and what is not finite moves no parameter."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.clock import Clock
from metronorm.errors import DivergenceError
from metronorm.runs import open_run
from metronorm.train import OptimizerConfig, Task, optimizers, train
from metronorm.train.beats import OrderedBeats
from metronorm.train.finite import FirstNonfinite
from metronorm.train.rank_beats import rank_windows
from metronorm.train.step import Step

from .stranger import Config, loss, small, task

NAMES = ("adamw", "ticks", "ticks_sign", "ticks_muon", "ticks_adam")
# what ticks_adam cannot do is to clip
CLIPPED = [
    (name, clip) for name in NAMES for clip in (0.0, 0.5) if name != "ticks_adam" or not clip
]
WAITING = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::item")


class Watch(TorchDispatchMode):
    """Notes every operation by which the host would read a tensor of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().partition(".")[0]
        self.operations += 1
        if name in WAITING:
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device decides. Alone on a CPU the host does, where it waits for nothing."""
    monkeypatch.setattr(optimizers, "_on_nonfinite", lambda device: "hold")


def step_of(config: Config, **changed: Any) -> tuple[Step, OrderedBeats]:
    torch.manual_seed(0)
    whole = replace(task(config), **changed)
    one = Step(whole, config, whole.model(), torch.device("cpu"))
    assert one.optimizer  # made before the first beat, as in a training
    return one, OrderedBeats(whole.batches, config.batch_size, config.seed)  # type: ignore[arg-type]


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize(("name", "clip"), CLIPPED)
def test_a_tick_reads_nothing_of_the_device(
    name: Any, clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the clock, which takes what is logged without waiting, by a way of its own."""
    config = small(optimizer=OptimizerConfig(name=name, clip=clip, learning_rate=1e-2))
    step, beats = step_of(config)
    logged: dict[str, Any] = {}
    with Clock(tmp_path / "run", progress=False) as clock:
        monkeypatch.setattr(clock, "log", logged.update)
        watch = Watch()
        for window in clock.ticks(rank_windows(beats, 3, step.task.count), total=4):
            if clock.tick == 1:  # makes the optimizer and its state
                step.tick(clock, window)
                continue
            with watch:
                step.tick(clock, window)
    assert watch.operations > 100
    assert watch.waits == []
    assert isinstance(logged["loss"], torch.Tensor)


def test_the_watch_sees_what_waits() -> None:
    with Watch() as watch:
        float(torch.ones(()))
    assert watch.waits == ["aten::_local_scalar_dense"]


def spoiled(at: int, how: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Config], Task]:
    """The task with a loss that is not finite in the training's beat number `at`, from 0 on."""

    def make(config: Config) -> Task:
        seen = 0

        def bad(model: nn.Module, batch: Any) -> torch.Tensor:
            nonlocal seen
            summed = loss(model, batch)
            if model.training and torch.is_grad_enabled():
                seen += 1
                if seen == at + 2:  # one before the training, to look at the loss
                    return how(summed)
            return summed

        return replace(task(config), loss=bad)

    return make


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("decides", ["host", "device"])
def test_a_bad_beat_ends_the_training_at_its_tick(
    name: Any, kind: str, decides: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Tick 8 of beats of two: the second is bad. The last checkpoint is whole, and goes on."""
    if decides == "device":
        request.getfixturevalue("as_on_an_accelerator")
    how = {
        "loss": lambda summed: summed * float("nan"),
        "gradient": lambda summed: summed + Spike.apply(summed),
    }[kind]
    config = small(optimizer=OptimizerConfig(name=name, clip=0.0, learning_rate=1e-2))
    says = "a loss of nan in tick 8" if kind == "loss" else "in the gradient of tick 8, at a loss"
    with pytest.raises(DivergenceError, match=says):
        train(spoiled(15, how), config, tmp_path / "run")
    assert len(open_run(tmp_path / "run").ticks().rows()) == 7
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == 5
    assert train(task, config, tmp_path / "run", resume=True).tick == 40


class Spike(torch.autograd.Function):
    """Adds nothing to the loss, and infinity to its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * float("inf")


@pytest.mark.usefixtures("as_on_an_accelerator")
@pytest.mark.parametrize("name", NAMES)
def test_where_the_host_learns_late_no_parameter_has_moved(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: the copy of the tick's number is still on its way."""
    config = small(optimizer=OptimizerConfig(name=name, clip=0.0, learning_rate=1e-2))
    factor = [1.0]
    step, beats = step_of(config, loss=lambda model, batch: loss(model, batch) * factor[0])
    late = torch.zeros((), dtype=torch.int64)
    step.first_nonfinite._arrived = late
    copy = torch.Tensor.copy_
    with Clock(tmp_path / "run", progress=False) as clock:
        for window in clock.ticks(rank_windows(beats, 2, step.task.count), total=6):
            if clock.tick == 3:
                before = [p.detach().clone() for p in step.model.parameters()]
                monkeypatch.setattr(
                    torch.Tensor,
                    "copy_",
                    lambda self, *args, **kwargs: (
                        self if self is late else copy(self, *args, **kwargs)
                    ),
                )
            factor[0] = float("inf") if clock.tick == 3 else 1.0
            step.tick(clock, window)
    for old, new in zip(before, step.model.parameters(), strict=True):
        assert torch.equal(old, new)
    step.first_nonfinite.check()  # nothing has arrived
    with pytest.raises(DivergenceError, match="a loss of inf in tick 3"):
        step.first_nonfinite.check(wait=True)


def test_only_the_first_tick_counts() -> None:
    first = FirstNonfinite(torch.device("cpu"))
    for tick, held in enumerate([False, True, False, True], start=1):
        first.note(tick, torch.tensor(2.5), torch.tensor(held))
    with pytest.raises(DivergenceError, match=r"gradient of tick 2, at a loss of 2\.5"):
        first.check()
