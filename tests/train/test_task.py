"""Tasks that the package has never heard of: their own model, their own data, on the one loop."""

import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from metronorm.checkpoints.folder import (
    best_checkpoint,
    checkpoint_paths,
    newest_checkpoint,
)
from metronorm.data import InOrder, Shuffled
from metronorm.errors import CheckpointError, ConfigError, DataError, DivergenceError
from metronorm.runs import open_run
from metronorm.train import Hook, Moment, OptimizerConfig, Task, train
from metronorm.train.config import OptimizerName

from .stranger import Config, Stream, examples, loss, measure, small, task
from .test_loop import at_every_tick


def rows(run: Path) -> list[dict[str, Any]]:
    return open_run(run).ticks().rows()


def history(run: Path) -> list[tuple[Any, ...]]:
    return [(row["tick"], row["loss"], row.get("validation_loss")) for row in rows(run)]


def stop_at(tick: int) -> Any:
    return at_every_tick(lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == tick else None)


def changed(**changes: Any) -> Any:
    return lambda config: replace(task(config), **changes)


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
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_another_size_of_beat_keeps_the_window(tmp_path: Path) -> None:
    def without_dropout(config: Config) -> Task:
        whole = task(config)
        return replace(whole, model=lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)))

    train(without_dropout, small(), tmp_path / "whole")
    with stop_at(17):
        train(without_dropout, small(), tmp_path / "run")
    train(without_dropout, small(batch_size=8, micro_batches=4), tmp_path / "run", resume=True)
    for (tick, mine, _), (_, theirs, _) in zip(
        history(tmp_path / "run"), history(tmp_path / "whole"), strict=True
    ):
        assert mine == pytest.approx(theirs, rel=1e-5), tick
    with pytest.raises(ConfigError, match="batch_size: 8 in the run, 3 asked for"):
        train(without_dropout, small(batch_size=3), tmp_path / "run", resume=True)


def test_random_numbers_are_of_the_tick_and_the_beat(tmp_path: Path) -> None:
    """What a hook draws in between is nothing to the dropout."""
    train(task, small(), tmp_path / "whole")
    drawing = Hook(1, lambda moment: torch.rand(100))
    train(changed(hooks=[drawing]), small(), tmp_path / "run")
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_the_best_by_any_measure_is_kept(tmp_path: Path) -> None:
    config = small(best="accuracy", best_mode="max", keep=1, checkpoint_every=1000)
    train(task, config, tmp_path / "run")
    found = best_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    highest = max(row["validation_accuracy"] or 0 for row in rows(tmp_path / "run"))
    assert found.state["measures"]["accuracy"] == highest
    with pytest.raises(ConfigError, match="best must be one of the measures"):
        train(task, small(best="f1"), tmp_path / "other")


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
    assert history(tmp_path / "run") == history(tmp_path / "whole")


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
    assert history(tmp_path / "run") == history(tmp_path / "whole")


def test_more_ticks_than_planned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(task, small(), tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        outcome = train(task, small(ticks=60), tmp_path / "run", resume=True)
    assert outcome.tick == 60
    assert "schedule ends at tick 60 now" in caplog.text
    assert train(task, small(ticks=60), tmp_path / "run", resume=True).tick == 60
    with pytest.raises(ConfigError, match="at least those that are done; got 50, where 60"):
        train(task, small(ticks=50), tmp_path / "run", resume=True)


def test_a_branch_goes_on_from_a_chosen_checkpoint_with_another_rate(tmp_path: Path) -> None:
    config = small(keep=100)
    train(task, config, tmp_path / "run")
    before = history(tmp_path / "run")
    slower = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-4))
    with pytest.raises(ConfigError, match=r"learning_rate: .* --from-tick N"):
        train(task, slower, tmp_path / "run", resume=True)
    with stop_at(23):
        train(task, slower, tmp_path / "run", resume=True, from_tick=20)
    assert history(tmp_path / "run")[:20] == before[:20]
    # a later resume stays on the branch, although there are newer checkpoints off it
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == 23
    train(task, slower, tmp_path / "run", resume=True)
    after = history(tmp_path / "run")
    assert len(after) == 40
    assert after[20] == before[20], "its loss is of the weights before it"
    assert after[21:] != before[21:]
    rates = [row["learning_rate"] for row in rows(tmp_path / "run")]
    assert rates[20] < rates[19] / 50
    (branch,) = [
        row for row in open_run(tmp_path / "run").events().rows() if row["event"] == "branch"
    ]
    assert "learning_rate: 0.01 in the run, 0.0001 asked for" in branch["fields"]


def scored(ticks: dict[int, float], *, stop: int = 0) -> Any:
    """A task whose evaluations have these scores, by tick, and else a bad one."""
    now = 0

    def count(moment: Moment) -> None:
        nonlocal now
        now = moment.tick
        if now == stop:
            moment.stop("as planned")

    def measured(model: nn.Module, batch: Any) -> dict[str, float]:
        return {"loss": ticks.get(now + 1, 9.0) * len(batch[1])}

    return changed(measure=measured, hooks=[Hook(1, count)])


def best_tick(run: Path) -> int:
    found = best_checkpoint(run / "checkpoints")
    assert found is not None
    return found.tick


def test_after_a_branch_the_best_is_one_of_its_own_history(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = small(ticks=12, evaluate_every=2, checkpoint_every=2, keep=1)
    train(scored({4: 3.0, 8: 1.0}), replace(config, keep=9), run)
    assert best_tick(run) == 8
    branch = scored({4: 3.0, 6: 2.0, 10: 1.5}, stop=9)
    train(branch, config, run, resume=True, from_tick=4)
    assert best_tick(run) == 6, "and not 8, which the branch has left"
    train(branch, config, run, resume=True)
    assert best_tick(run) == 10
    kept = checkpoint_paths(run / "checkpoints")
    assert [path.name for path in kept] == ["tick-00000010", "tick-00000012"]


def test_a_branch_from_what_another_has_left_has_not_its_best(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = small(ticks=12, evaluate_every=2, checkpoint_every=2, keep=9)
    train(scored({2: 4.0}), config, run)
    train(scored({6: 1.0}, stop=6), config, run, resume=True, from_tick=4)
    assert best_tick(run) == 6
    train(scored({}, stop=9), config, run, resume=True, from_tick=8)
    assert best_tick(run) == 2


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
    assert history(tmp_path / "run") == history(tmp_path / "whole")


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


def test_the_first_batch_of_the_test_set_is_tried_before_the_first_tick(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="something to count; got no batches in the list; try: more data for test"
    ):
        train(changed(test=list), small(ticks=7), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_measure_that_is_a_mean_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def means(model: nn.Module, batch: Any) -> dict[str, Any]:
        sums = measure(model, batch)
        return {**sums, "accuracy": sums["accuracy"] / len(batch[1])}

    train(changed(measure=means), small(ticks=1), tmp_path / "run")
    assert "the measure 'accuracy' seems to be a mean" in caplog.text
    assert "the measure 'loss'" not in caplog.text


def test_a_test_set_that_cannot_be_measured_loses_nothing(tmp_path: Path) -> None:
    reads = 0

    def once() -> Any:
        nonlocal reads
        reads += 1
        return InOrder(*examples(), batch_size=20) if reads == 1 else []

    with pytest.raises(DataError, match=r"of the test set: .* something to count; got no batches"):
        train(changed(test=once), small(ticks=7), tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").tick == 7
    assert len(rows(tmp_path / "run")) == 7


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


def test_a_branch_keeps_its_optimizer(tmp_path: Path) -> None:
    train(task, small(), tmp_path / "run")
    other = small(optimizer=OptimizerConfig(name="ticks"))
    with pytest.raises(ConfigError, match=r"optimizer\.name: 'adamw' in the run, 'ticks' asked"):
        train(task, other, tmp_path / "run", resume=True, from_tick=40)
    with pytest.raises(ConfigError, match="from_tick is for a run that goes on"):
        train(task, small(), tmp_path / "new", from_tick=40)


def mean(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def unsummed(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


class WithExtraState(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 3)

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 3}


class SparseRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(3, 3, sparse=True)

    def forward(self, points: Tensor) -> Tensor:
        return self.rows((points[:, 0] > 0).long())  # type: ignore[no-any-return]


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
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    assert outcome.measures == whole.measures


ONE_GENERATOR: Iterator[Any] = iter([])
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no scalar": ({"loss": unsummed}, ConfigError, r"loss must be a scalar.*try: reduction"),
    "no gradient": (
        {"loss": lambda model, batch: loss(model, batch).detach()},
        ConfigError,
        "must depend on the model's parameters; got one without a gradient",
    ),
    "not finite": (
        {"loss": lambda model, batch: loss(model, batch) * float("nan")},
        DivergenceError,
        r"finite at the first tick; got nan for the first batch \(shapes \(16, 8\), \(16,\)",
    ),
    "nothing counted": ({"count": lambda batch: 0}, DataError, "something to count; got 0"),
    "nothing to train": (
        {"model": lambda: nn.Linear(8, 3).requires_grad_(False)},
        ConfigError,
        "parameters that can be trained",
    ),
    "an order that ends": (
        {"batches": iter([(torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64))] * 3)},
        DataError,
        "must last for all ticks; got a list_iterator that has ended",
    ),
    "no batches": ({"batches": []}, DataError, "an epoch must hold a batch at least"),
    "no iterable": ({"batches": 7}, DataError, r"an order with take\(first, size\).*got int"),
    "a model, made": ({"model": nn.Linear(8, 3)}, ConfigError, "function that makes the model"),
    "validation for once": (
        {"validation": iter([])},
        ConfigError,
        "validation must be batches that can be iterated again",
    ),
    "a unit that is another metric": ({"unit": "loss"}, ConfigError, "unit must be a name of its"),
    "no validation": ({"validation": list}, DataError, "something to count; got no batches"),
    "no model": ({"model": lambda: None}, ConfigError, "got one that returns a NoneType"),
    "a count of several": (
        {"count": lambda batch: np.array([16])},
        ConfigError,
        "count must give a whole number; got array",
    ),
    "no tensors in the model": (
        {"model": WithExtraState},
        ConfigError,
        "state_dict must hold tensors only; got _extra_state, a dict",
    ),
    "sparse gradients": (
        {"model": lambda: SparseRows()},
        ConfigError,
        "gradients must be dense; got a sparse one of rows.weight; try: sparse=False",
    ),
    "no sums": ({"measure": lambda *_: [1.0]}, ConfigError, "return sums by name; got a list"),
    "a sum of text": ({"measure": lambda *_: {"loss": "x"}}, ConfigError, "loss is a str"),
    "a sum of three": ({"measure": lambda *_: {"loss": (1, 2, 3)}}, ConfigError, "tuple of 3"),
    "a sum too big": ({"measure": lambda *_: {"loss": 10**400}}, ConfigError, "loss is a int"),
    "a complex sum": (
        {"measure": lambda *_: {"loss": torch.tensor(1j)}},
        ConfigError,
        "a real number; got loss is complex",
    ),
    "a nameless sum": ({"measure": lambda *_: {3: 1.0}}, ConfigError, "name must be text; got 3"),
    "one generator": (
        {"validation": lambda: ONE_GENERATOR},
        ConfigError,
        "anew each time; got the same list_iterator again",
    ),
    "nothing to evaluate": ({"validation": lambda: None}, ConfigError, "that returns None"),
    "a hook that is none": ({"hooks": [print]}, ConfigError, "must be a list of Hook"),
    "one hook": ({"hooks": Hook(1, print)}, ConfigError, "must be a list of Hook"),
    "a hook of text": ({"hooks": [Hook("2", print)]}, ConfigError, "a whole number of ticks"),  # type: ignore[arg-type]
    "a name of a number": ({"data_id": 4}, ConfigError, "data_id must be text; got 4"),
    "a unit of the validation": ({"unit": "test_loss"}, ConfigError, "not of a measure"),
    "a unit of another case": ({"unit": "Loss"}, ConfigError, "unit must be a name of its own"),
    "a unit of the record": ({"unit": "tick"}, ConfigError, "the record's own .*; got 'tick'"),
    "a unit of a phase": ({"unit": "data_ns"}, ConfigError, "names ending in _ns.*'data_ns'"),
    "measures of one name": (
        {"measure": lambda *_: {"loss": 1.0, "Loss": 1.0}},
        ConfigError,
        "differ in more than upper and lower case",
    ),
    "a group that is none": (
        {"groups": lambda model, config: model.parameters()},
        ConfigError,
        "groups must be dicts with params; got Parameter; try",
    ),
    "a parameter twice": (
        {"groups": lambda model, config: [{"params": [model[0].weight]}] * 2},
        ConfigError,
        "a parameter must be in one group; got 0.weight twice",
    ),
    "a parameter of another model": (
        {"groups": lambda model, config: [{"params": nn.Linear(2, 2).parameters()}]},
        ConfigError,
        "groups must hold parameters of the model; got 2 others",
    ),
    "a unit of a number": ({"unit": 4}, ConfigError, "unit must be a name of its own"),
    "a loss of a number": ({"loss": 4}, ConfigError, "loss must be a function; got a int"),
    "a tensor to keep": (
        {"save": lambda *_: {"mean": torch.zeros(2)}},
        ConfigError,
        "must return plain values by name.*; got .*Tensor",
    ),
    "no names to keep": ({"save": lambda *_: [1]}, ConfigError, r"values by name.*got \[1\]"),
    "a taken name": (
        {"save": lambda *_: {"tick": 3, "files": {}}},
        ConfigError,
        "names that a checkpoint does not have; got files, tick",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_error(name: str, tmp_path: Path) -> None:
    changes, kind, says = BAD[name]
    with pytest.raises(kind, match=says):
        train(changed(**changes), small(), tmp_path / "run")


def test_the_best_may_be_of_an_average_that_begins_later(tmp_path: Path) -> None:
    train(task, small(average_last=0.25, best="loss_last", keep=1), tmp_path / "run")
    found = best_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.tick == 40


def test_a_measure_that_is_gone_later_is_an_error(tmp_path: Path) -> None:
    calls: list[int] = []

    def fickle(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        calls.append(1)
        tried = len(calls) <= 3  # a batch and its halves, before the first tick
        return {"loss" if tried else "lost": loss(model, batch)}

    with pytest.raises(ConfigError, match=r"got 'loss', which this .* try: one of lost"):
        train(changed(measure=fickle, test=None), small(), tmp_path / "run")


def test_what_is_not_trained_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def groups(model: Any, config: Any) -> list[dict[str, Any]]:
        model[3].bias.requires_grad_(False)
        return [{"params": model[0].parameters()}]

    train(changed(groups=groups), small(ticks=1), tmp_path / "run")
    assert "3.weight: not trained, as no group has it" in caplog.text


def test_a_best_that_nothing_measures_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(changed(validation=None), small(ticks=1), tmp_path / "loss")
    assert caplog.text == ""
    train(changed(validation=None), small(ticks=1, best="accuracy"), tmp_path / "run")
    assert "best='accuracy' needs a validation set" in caplog.text


@pytest.mark.parametrize(
    ("batches", "warned"),
    [
        (Stream(), True),
        ([(torch.zeros(8), torch.tensor(1))] * 9, True),
        (DataLoader(Stream(), batch_size=None), False),
    ],
)
def test_examples_that_are_no_batches_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, batches: Any, warned: bool
) -> None:
    """A data set that gives whole batches says so by `batch_size=None`."""

    def of_one(model: nn.Module, batch: Any) -> Tensor:
        return loss(model, [torch.as_tensor(column)[None] for column in batch])

    single = changed(
        batches=batches, loss=of_one, count=lambda batch: 1, validation=None, test=None
    )
    train(single, small(ticks=1), tmp_path / "run")
    assert ("is taken for a batch; try: DataLoader(" in caplog.text) is warned


def test_a_mean_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(task, small(ticks=1), tmp_path / "sum")
        assert caplog.text == ""
        train(changed(loss=mean), small(ticks=1), tmp_path / "mean")
    assert "the loss seems to be a mean" in caplog.text


def test_data_that_changed_is_refused(tmp_path: Path) -> None:
    with stop_at(5):
        train(task, small(), tmp_path / "run")
    points, labels = examples()
    points[3, 2] += 1

    with pytest.raises(DataError, match="must have the data it was begun with"):
        train(
            changed(batches=Shuffled(points, labels, seed=0)),
            small(),
            tmp_path / "run",
            resume=True,
        )


def test_what_is_not_exact_is_said_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fresh:
        """Other batches whenever it is begun: its numbers come from no global generator."""

        def __init__(self) -> None:
            self.chance = np.random.default_rng()

        def __iter__(self) -> Iterator[Any]:
            for _ in range(5):
                yield self.chance.normal(size=(4, 8)).astype(np.float32), np.zeros(4, np.int64)

    def endless() -> Iterator[Any]:
        while True:
            yield torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64)

    pairs = TensorDataset(*map(torch.from_numpy, examples()))
    out_of_order = DataLoader(pairs, 8, num_workers=1, in_order=False)
    for number, (batches, reason) in enumerate(
        [
            (Fresh(), "gives other batches when it is begun anew"),
            (endless(), "cannot begin anew"),
            (out_of_order, "in_order=False"),
        ]
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            train(changed(batches=batches), small(ticks=1), tmp_path / str(number))
        assert "a resume of this run will not be exact" in caplog.text
        assert reason in caplog.text


def test_losses_that_are_no_sum_over_batches(tmp_path: Path) -> None:
    """The escape hatch does forward and backward itself; the update is the same."""

    def accumulate(model: nn.Module, batch: Any, weight: float) -> Tensor:
        part = loss(model, batch) * weight
        part.backward()
        return part

    train(task, small(), tmp_path / "usual")
    train(changed(accumulate=accumulate), small(), tmp_path / "own")
    assert history(tmp_path / "own") == history(tmp_path / "usual")


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
