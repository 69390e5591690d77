import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from metronorm.clock.hooks import Watch
from metronorm.clock.hooks.instance_override import override_on_instance

from .training import DATA, TICK, Samples, Training


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "run")


def watch(training: Training, loader: Any = None) -> Watch:
    return Watch(training.clock, training.model, training.optimizer, loader)


class Own:
    """A loader as people write them: with slots, without a length."""

    __slots__ = ("training",)

    def __init__(self, training: Training) -> None:
        self.training = training

    def __iter__(self) -> Iterator[torch.Tensor]:
        for number in range(4):
            self.training.time.pass_(DATA)
            yield torch.tensor([[1.0, number]])


class Iterated(Own):
    """A loader that is its own iterator."""

    __slots__ = ("source",)

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.source = super().__iter__()
        return self

    def __next__(self) -> torch.Tensor:
        return next(self.source)


class Stream(IterableDataset[torch.Tensor]):
    def __init__(self, training: Training) -> None:
        self.training = training

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (x[0] for x in Own(self.training))


@pytest.mark.parametrize(
    "make",
    [
        Own,
        Iterated,
        lambda training: DataLoader(Stream(training)),
        lambda training: training.loader,
    ],
    ids=["own", "iterator", "stream", "samples"],
)
def test_loaders(training: Training, make: Any) -> None:
    loader = make(training)
    kind = type(loader)
    with watch(training, loader) as watched:
        assert isinstance(loader, kind)
        assert type(loader).__name__ == kind.__name__
        for _ in range(2):
            for x in loader:
                training.turn(x)
    assert type(loader) is kind
    assert watched is not None
    assert training.phases() == [TICK] * 8


@pytest.mark.parametrize(
    "make", [list, iter, lambda loader: (x for x in loader)], ids=["list", "iterator", "generator"]
)
def test_loaders_of_built_in_types_are_passed_to_data(training: Training, make: Any) -> None:
    with watch(training) as watched:
        batches = make([torch.ones(1, 2)] * 3)
        for number, x in enumerate(watched.data(batches)):
            training.turn(x)
            training.clock.log(number=number)
    found = training.ticks()
    assert [tick["number"] for tick in found] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_workers(training: Training, persistent: bool) -> None:
    loader = DataLoader(
        Samples(training.time, 6), batch_size=2, num_workers=2, persistent_workers=persistent
    )
    with watch(training, loader):
        assert len(loader) == 3
        for _ in range(2):
            seen = []
            for x in loader:
                seen.append(x)
                training.turn(x)
            assert torch.equal(torch.cat(seen)[:, 1], torch.arange(6.0))
    assert [x.shape for x in loader] == [(2, 2)] * 3
    assert [tick["tick"] for tick in training.ticks()] == [1, 2, 3, 4, 5, 6]


def test_other_loaders_are_not_measured(training: Training) -> None:
    other = DataLoader(Samples(training.time, 2), batch_size=1)
    with watch(training, training.loader):
        for x in training.loader:
            training.turn(x)
            for _ in other:
                training.time.pass_(1)
    assert training.phases() == [TICK | {"unattributed": 2 * (DATA + 1)}] * 4


def test_a_loop_that_is_left_pauses_the_clock(training: Training) -> None:
    with watch(training, training.loader):
        for _ in range(2):
            for number, x in enumerate(training.loader):
                training.turn(x)
                training.clock.log(number=number)
                if number == 1:
                    break
            training.time.pass_(10_000)
    found = training.ticks()
    assert [tick["number"] for tick in found] == [0, 1, 0, 1]
    assert [tick["phases"] for tick in found] == [TICK] * 4


def test_a_batch_taken_by_hand(training: Training) -> None:
    with watch(training, training.loader):
        for _ in range(3):
            training.turn(next(iter(training.loader)))
    assert training.phases() == [TICK] * 3


def test_batches_without_end(training: Training) -> None:
    def forever() -> Iterator[torch.Tensor]:
        while True:
            yield from training.loader

    with watch(training, training.loader):
        batches = forever()
        for _ in range(10):
            training.turn(next(batches))
    assert training.phases() == [TICK] * 10


def test_a_loader_that_fails(training: Training) -> None:
    class Failing(Samples):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 2:
                raise OverflowError
            return super().__getitem__(index)

    def loop() -> None:
        for x in loader:
            training.turn(x)

    loader = DataLoader(Failing(training.time, 4), batch_size=1)
    with watch(training, loader):
        with pytest.raises(OverflowError):
            loop()
        assert training.clock.tick == 2
        training.time.pass_(10_000)
        with pytest.raises(OverflowError):
            loop()
    assert training.clock.tick == 4
    assert training.phases()[:2] == [TICK] * 2


def test_an_empty_loader_is_no_tick(training: Training) -> None:
    loader = DataLoader(Samples(training.time, 0), batch_size=1)
    with watch(training, loader):
        for _ in range(2):
            assert list(loader) == []
            assert training.clock.tick == 0
    assert training.ticks() == []


def test_an_iteration_that_outlives_its_watch(training: Training) -> None:
    watched = watch(training, training.loader)
    batches = iter(training.loader)
    training.turn(next(batches))
    watched.remove()
    training.turn(next(batches))
    assert len(list(batches)) == 2
    assert training.phases() == [TICK]


def test_attributes_of_the_iterator_are_there(training: Training) -> None:
    with watch(training, training.loader):
        batches: Any = iter(training.loader)
        assert batches._num_workers == 0
        with pytest.raises(AttributeError):
            batches.nothing  # noqa: B018
    training.clock.close()


def test_copies_are_of_the_class_itself(training: Training) -> None:
    loader = DataLoader([1, 2, 3], batch_size=2)
    undo = override_on_instance(loader, __iter__=lambda loader: iter(()))
    assert list(loader) == []
    for copied in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert type(copied) is DataLoader
        assert [x.tolist() for x in copied] == [[1, 2], [3]]
    undo()
    assert [x.tolist() for x in loader] == [[1, 2], [3]]
    training.clock.close()


def test_undone_in_another_order(training: Training) -> None:
    first = watch(training, training.loader)
    second = Watch(training.clock, loader=training.loader)
    first.remove()
    for x in training.loader:
        training.turn(x)
    for x in training.clock.ticks(training.loader):
        training.turn(x)
    second.remove()
    for x in training.loader:
        training.turn(x)
    assert [tick["data"] for tick in training.phases()] == [5 * DATA] + [DATA] * 3
