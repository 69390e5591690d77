"""Tasks that the package has never heard of: their own model, their own data, on the one loop."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from metronorm.checkpoints.folder import (
    newest_checkpoint,
)
from metronorm.errors import CheckpointError, ConfigError
from metronorm.train import Hook, Moment, OptimizerConfig, Task, train
from metronorm.train.config import OptimizerName

from .acting import stop_at
from .stranger import Config, changed, examples, loss, measure, small, task
from .tiny import losses, rows


def test_a_strangers_model_learns_and_is_measured(tmp_path: Path) -> None:
    outcome = train(task, small(), tmp_path / "run")
    found = rows(tmp_path / "run")
    assert found[-1]["loss"] < found[0]["loss"] - 0.3
    assert found[-1]["validation_accuracy"] > 0.7
    assert outcome.measures["accuracy"] == found[-1]["validation_accuracy"]
    assert outcome.test["accuracy"] == found[-1]["test_accuracy"]
    assert found[0]["examples"] == 32
    assert "test_accuracy" not in found[0] or found[0]["test_accuracy"] is None


@pytest.mark.parametrize("batches", ["order", "loader", "workers", "iterable"])
@pytest.mark.parametrize("tick", [4, 17])
def test_a_resumed_run_is_the_run(tmp_path: Path, batches: str, tick: int) -> None:
    config = small(batches=batches)
    train(task, config, tmp_path / "whole")
    with stop_at(tick):
        assert train(task, config, tmp_path / "run").tick == tick
    train(task, config, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_another_size_of_beat_keeps_the_window(tmp_path: Path) -> None:
    def without_dropout(config: Config) -> Task:
        whole = task(config)
        return replace(whole, model=lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)))

    train(without_dropout, small(), tmp_path / "whole")
    with stop_at(17):
        train(without_dropout, small(), tmp_path / "run")
    train(without_dropout, small(batch_size=8, micro_batches=4), tmp_path / "run", resume=True)
    for (tick, mine, _), (_, theirs, _) in zip(
        losses(tmp_path / "run"), losses(tmp_path / "whole"), strict=True
    ):
        assert mine == pytest.approx(theirs, rel=1e-5), tick
    with pytest.raises(ConfigError, match="batch_size: 8 in the run, 3 asked for"):
        train(without_dropout, small(batch_size=3), tmp_path / "run", resume=True)


def test_random_numbers_are_of_the_tick_and_the_beat(tmp_path: Path) -> None:
    """What a hook draws in between is nothing to the dropout."""
    train(task, small(), tmp_path / "whole")
    drawing = Hook(1, lambda moment: torch.rand(100))
    train(changed(hooks=[drawing]), small(), tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_averages_of_the_weights_are_tested_too(tmp_path: Path) -> None:
    given = task(small()).test
    outcome = train(
        changed(validation=given), small(ticks=4, ema=0.9, average_last=0.5), tmp_path / "run"
    )
    assert outcome.test == outcome.measures
    assert outcome.test.keys() >= {"loss", "loss_ema", "loss_last", "accuracy_ema"}
    assert rows(tmp_path / "run")[-1]["test_loss_ema"] == outcome.test["loss_ema"]


def test_averages_of_the_weights_are_evaluated_and_resumed(tmp_path: Path) -> None:
    config = small(ema=0.9, average_last=0.5)
    train(task, config, tmp_path / "whole")
    first, *_, last = [row for row in rows(tmp_path / "whole") if row["validation_loss"]]
    assert first["validation_loss_ema"] > last["validation_loss_ema"]
    assert first["validation_loss_last"] is None
    assert last["validation_loss_last"] is not None
    with stop_at(33):
        train(task, config, tmp_path / "run")
    train(task, config, tmp_path / "run", resume=True)
    assert rows(tmp_path / "run")[-1]["validation_loss_ema"] == last["validation_loss_ema"]
    assert rows(tmp_path / "run")[-1]["validation_loss_last"] == last["validation_loss_last"]
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_an_average_is_the_average(tmp_path: Path) -> None:
    """Of the weights that a hook has seen, in float64."""
    seen: list[Tensor] = []

    def look(moment: Moment) -> None:
        seen.append(next(moment.model.parameters()).detach().double().clone())

    train(changed(hooks=[Hook(1, look)]), small(ema=0.8, average_last=0.25), tmp_path / "run")
    from safetensors.torch import load_file

    path = newest_checkpoint(tmp_path / "run" / "checkpoints").path
    kept = load_file(path / "state.safetensors")
    weights = torch.tensor([0.8 ** (40 - tick) for tick in range(1, 41)], dtype=torch.float64)
    ema = sum(w * s for w, s in zip(weights / weights.sum(), seen, strict=True))
    torch.testing.assert_close(kept["average.ema.0.weight"].double(), ema, rtol=1e-5, atol=1e-7)
    last = torch.stack(seen[30:]).mean(0)
    torch.testing.assert_close(kept["average.last.0.weight"].double(), last, rtol=1e-5, atol=1e-7)


def test_a_model_is_loaded_with_its_average(tmp_path: Path) -> None:
    train(task, small(ema=0.9), tmp_path / "run")
    found = newest_checkpoint(tmp_path / "run" / "checkpoints")
    trained, averaged = task(small()).model(), task(small()).model()
    found.load_model(trained)
    found.load_model(averaged, average="ema")
    points, labels = map(torch.from_numpy, examples())
    with torch.no_grad():
        sums = measure(averaged.eval(), (points[:50], labels[:50]))
    expected = rows(tmp_path / "run")[-1]["validation_loss_ema"]
    assert float(sums["loss"]) / 50 == pytest.approx(expected, rel=1e-6)
    assert not torch.equal(trained[0].weight, averaged[0].weight)  # type: ignore[index]
    with pytest.raises(CheckpointError, match=r"must hold the average 'last'.*; got ema; try"):
        found.load_model(averaged, average="last")


def test_a_hook_stops_early_and_the_run_can_go_on(tmp_path: Path) -> None:
    def stop(moment: Moment) -> None:
        if moment.tick == 20:
            moment.stop("it is good enough")

    outcome = train(changed(hooks=[Hook(10, stop)]), small(), tmp_path / "run")
    assert (outcome.tick, outcome.reason, outcome.saved) == (20, "it is good enough", 20)
    assert outcome.test == {}, "the test set is read at the planned end only"
    train(task, small(), tmp_path / "whole")
    train(task, small(), tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_more_ticks_than_planned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(task, small(), tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        outcome = train(task, small(ticks=60), tmp_path / "run", resume=True)
    assert outcome.tick == 60
    assert "schedule ends at tick 60 now" in caplog.text
    assert train(task, small(ticks=60), tmp_path / "run", resume=True).tick == 60
    with pytest.raises(ConfigError, match="at least those that are done; got 50, where 60"):
        train(task, small(ticks=50), tmp_path / "run", resume=True)


def test_a_new_run_from_a_runs_weights(tmp_path: Path) -> None:
    train(task, small(), tmp_path / "first")
    config = small(init_from=str(tmp_path / "first"), ticks=2)
    train(task, config, tmp_path / "second")
    assert rows(tmp_path / "second")[0]["loss"] < rows(tmp_path / "first")[0]["loss"] - 0.3


def test_tied_weights_are_saved_once_and_come_back(tmp_path: Path) -> None:
    def tied(config: Config) -> Task:
        def model() -> nn.Module:
            net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3))
            net[1].weight = net[0].weight
            return net

        return replace(task(config), model=model)

    train(tied, small(), tmp_path / "whole")
    with stop_at(7):
        train(tied, small(), tmp_path / "run")
    train(tied, small(), tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_finished_run_that_is_resumed_has_its_measures(tmp_path: Path) -> None:
    first = train(task, small(ticks=5), tmp_path / "run")
    again = train(task, small(ticks=5), tmp_path / "run", resume=True)
    assert first.measures
    assert (again.measures, again.test) == (first.measures, first.test)


def test_batches_to_measure_may_be_the_batches_themselves(tmp_path: Path) -> None:
    given = task(small()).validation
    assert callable(given)
    train(changed(validation=given(), test=list(given())), small(ticks=20), tmp_path / "run")
    found = [row["validation_loss"] for row in rows(tmp_path / "run") if row["validation_loss"]]
    assert len(found) == 2
    assert rows(tmp_path / "run")[-1]["test_loss"] == found[-1]


def test_a_finished_run_says_that_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(task, small(ticks=3), tmp_path / "run")
    assert "done" not in capsys.readouterr().err
    train(task, small(ticks=3), tmp_path / "run", resume=True)
    assert "done       all ticks; --ticks N makes more" in capsys.readouterr().err


def test_a_field_that_is_overridden_keeps_its_rule(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Longer(Config):
        ticks: int = 7
        keep: int = 5

    options = vars(small())
    config = Longer(**options)
    train(task, replace(config, ticks=7), tmp_path / "run")
    assert train(task, replace(config, ticks=9, keep=1), tmp_path / "run", resume=True).tick == 9


def test_another_device_or_allocator_is_no_difference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(task, small(ticks=4), tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        train(task, small(ticks=4, device="auto", allocator="keep"), tmp_path / "run", resume=True)
    assert caplog.text == ""


class Unused(nn.Module):
    """One layer never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(8, 3), nn.Linear(3, 3)

    def forward(self, points: Tensor) -> Tensor:
        return self.used(points)  # type: ignore[no-any-return]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, dtype=torch.complex64))

    def forward(self, points: Tensor) -> Tensor:
        return (points.to(torch.complex64) @ self.weight).abs()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(3))


ODD = [(kind, name) for kind in (Unused, lazy) for name in get_args(OptimizerName)]


@pytest.mark.parametrize(("model", "name"), [*ODD, (Complex, "adamw")])
def test_an_odd_model_resumes_too(tmp_path: Path, model: Any, name: Any) -> None:
    """A layer without gradients, layers that find out their sizes, complex weights."""
    optimizer = OptimizerConfig(name=name, learning_rate=1e-3, clip=0.0)
    config = small(ticks=12, ema=0.9, optimizer=optimizer)
    whole = train(changed(model=model), config, tmp_path / "whole")
    assert whole.measures["loss_ema"] != whole.measures["loss"]
    with stop_at(7):
        train(changed(model=model), config, tmp_path / "run")
    outcome = train(changed(model=model), config, tmp_path / "run", resume=True)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert outcome.measures == whole.measures


def test_losses_that_are_no_sum_over_batches(tmp_path: Path) -> None:
    """The escape hatch does forward and backward itself; the update is the same."""

    def accumulate(model: nn.Module, batch: Any, weight: float) -> Tensor:
        part = loss(model, batch) * weight
        part.backward()
        return part

    train(task, small(), tmp_path / "usual")
    train(changed(accumulate=accumulate), small(), tmp_path / "own")
    assert losses(tmp_path / "own") == losses(tmp_path / "usual")


def test_evaluation_divides_once(tmp_path: Path) -> None:
    """Batches of 20, 20 and 10: the mean of their means would be another number."""
    train(task, small(ticks=10), tmp_path / "run")
    points, labels = map(torch.from_numpy, examples())
    net = task(small()).model()
    newest_checkpoint(tmp_path / "run" / "checkpoints").load_model(net)
    with torch.no_grad():
        sums = measure(net.eval(), (points[:50], labels[:50]))
    (row,) = rows(tmp_path / "run")[-1:]
    assert row["validation_loss"] == pytest.approx(float(sums["loss"]) / 50, rel=1e-6)
    assert row["validation_accuracy"] == float(sums["accuracy"]) / 50
