"""Tasks that cannot work end in one clear error; those that seem wrong are warned of."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from metronorm.checkpoints.folder import (
    newest_checkpoint,
)
from metronorm.data import InOrder, Shuffled
from metronorm.errors import ConfigError, DataError, DivergenceError
from metronorm.train import Hook, train

from .acting import stop_at
from .stranger import Stream, changed, examples, loss, measure, small, task
from .tiny import rows


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
