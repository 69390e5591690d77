"""A resume at any beat has the batches of the uninterrupted training, or it is said before."""

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    get_worker_info,
)

from metronorm.data import Planned, Shuffled
from metronorm.errors import CheckpointError, DataError
from metronorm.train.batches import same
from metronorm.train.beats import IteratedBeats, OrderedBeats, make_beats

SEED = 3


class Augmented(Dataset[Any]):
    """Ten examples, each with noise of torch's, NumPy's and Python's global generators."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        noise = [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002
        return index, torch.tensor(noise, dtype=torch.float64)


class Plain(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return index


class Stream(IterableDataset[Any]):
    """Augmented examples one by one, of which every worker has its share."""

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        for index in range(info.id if info else 0, 10, info.num_workers if info else 1):
            yield Augmented()[index]


class Epochs:
    """Batches of its own making: other ones in each epoch, and not as many."""

    def __iter__(self) -> Iterator[Any]:
        for _ in range(random.randint(1, 4)):
            yield {"x": torch.randn(2), "y": [np.random.randn(2)]}  # noqa: NPY002


class Stateful:
    """Numbers of a generator of its own, of which it can save the state."""

    def __init__(self) -> None:
        self.begun, self.ahead = 0, 0

    def __iter__(self) -> Iterator[Any]:
        while self.ahead < 4:
            self.ahead += 1
            yield torch.tensor([self.begun, self.ahead])
        self.begun, self.ahead = self.begun + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"begun": self.begun, "ahead": self.ahead}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begun, self.ahead = state["begun"], state["ahead"]


class StatefulIterator(Stateful):
    """The same, for ever, as one iterator."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.ahead += 1
        return torch.tensor([self.begun, self.ahead])


class TensorState(DataLoader[Any]):
    """A loader with a state that no checkpoint can keep: it holds a tensor."""

    def state_dict(self) -> dict[str, Any]:
        return {"generator": torch.get_rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["generator"].dtype == torch.uint8


def with_generator(**options: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(7)
    return DataLoader(Augmented(), 4, shuffle=True, generator=generator, **options)


def noisy(batch: Any, rng: np.random.Generator) -> Any:
    return batch + rng.random() + torch.rand(()).item() + random.random()


BATCHES: dict[str, Callable[[], Any]] = {
    "order": lambda: Shuffled(np.arange(10.0), seed=0, transform=noisy),
    "plan": lambda: Planned(lambda epoch: np.arange(3 + epoch % 2) + 10 * epoch, np.array),
    "list": lambda: [torch.tensor([number]) for number in range(3)],
    "loader": lambda: DataLoader(Augmented(), 4, shuffle=True),
    "loader, drop_last": lambda: DataLoader(Augmented(), 4, shuffle=True, drop_last=True),
    "loader, generator": with_generator,
    "loader, sampler": lambda: DataLoader(
        Augmented(), 4, sampler=RandomSampler(Augmented(), replacement=True, num_samples=9)
    ),
    "loader, sampler, generator": lambda: DataLoader(
        Augmented(), 4, sampler=RandomSampler(Augmented(), generator=torch.Generator())
    ),
    "loader, batch_sampler": lambda: DataLoader(
        Augmented(), batch_sampler=BatchSampler(RandomSampler(Augmented()), 3, drop_last=False)
    ),
    "loader of a stream": lambda: DataLoader(Stream(), 4),
    "epochs": Epochs,
    "stateful": Stateful,
    "stateful iterator": StatefulIterator,
    "state of a tensor": lambda: TensorState(Augmented(), 4, shuffle=True),
}
WORKERS: dict[str, Callable[[], Any]] = {
    "workers": lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=2),
    "workers, generator": lambda: with_generator(num_workers=1),
    "workers of a stream": lambda: DataLoader(Stream(), 2, num_workers=2),
    "persistent workers": lambda: DataLoader(
        Plain(), 4, shuffle=True, num_workers=1, persistent_workers=True
    ),
}


def beats_of(batches: Any) -> OrderedBeats | IteratedBeats:
    return make_beats(batches, batch_size=4, seed=SEED)


def taken(beats: Any, count: int) -> list[Any]:
    return [next(beats) for _ in range(count)]


def check_resumes(make: Callable[[], Any], cuts: range, count: int) -> None:
    whole = beats_of(make())
    first = whole.first()
    expected = taken(whole, count)
    assert same(first, expected[0])
    for cut in cuts:
        beats = beats_of(make())
        beats.first()
        assert same(taken(beats, cut), expected[:cut])
        state = json.loads(json.dumps(beats.state_dict()))
        disturbed = beats_of(make())
        torch.manual_seed(cut)
        random.seed(cut)
        disturbed.first()
        disturbed.load_state_dict(state)
        assert same(taken(disturbed, count - cut), expected[cut:]), cut
        assert disturbed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("kind", BATCHES)
def test_a_resume_at_any_beat_is_exact(kind: str) -> None:
    check_resumes(BATCHES[kind], range(11), 11)


@pytest.mark.parametrize("kind", WORKERS)
def test_a_resume_with_workers_is_exact(kind: str) -> None:
    check_resumes(WORKERS[kind], range(2, 6, 3), 8)


@pytest.mark.parametrize("kind", [*BATCHES, *WORKERS])
def test_what_is_exact_is_not_doubted(kind: str) -> None:
    beats = beats_of((BATCHES | WORKERS)[kind]())
    if isinstance(beats, IteratedBeats):
        assert beats.doubt() is None
        after = taken(beats, 5)
        assert same(after, taken(beats_of((BATCHES | WORKERS)[kind]()), 5)), "and it takes nothing"


@pytest.mark.parametrize("kind", ["loader", "loader, generator", "epochs", "list"])
def test_epochs_differ_where_they_are_shuffled(kind: str) -> None:
    beats = beats_of(BATCHES[kind]())
    size = int(beats.beats_per_epoch() or 3)
    assert same(taken(beats, size), taken(beats, size)) is (kind == "list")


@pytest.mark.parametrize("kind", ["order", "loader", "epochs"])
def test_loading_and_computing_do_not_disturb_each_other(kind: str) -> None:
    """Whatever is drawn between two beats, in whatever process, the beats are the same."""
    expected = taken(beats_of(BATCHES[kind]()), 8)
    beats = beats_of(BATCHES[kind]())
    for batch in expected:
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002
        random.random()
        assert same(next(beats), batch)


def test_seeds_have_batches_of_their_own() -> None:
    make = BATCHES["loader"]
    batches = [next(make_beats(make(), batch_size=4, seed=seed)) for seed in (-1, 0, 1, 2**40)]
    assert not any(same(one, other) for one in batches for other in batches if one is not other)


def test_another_size_of_beat_goes_on_with_the_next_example() -> None:
    order = Shuffled(np.arange(100), seed=0)
    beats = OrderedBeats(order, 6, SEED)
    taken(beats, 4)
    other = OrderedBeats(order, 3, SEED)
    other.load_state_dict(beats.state_dict())
    assert np.concatenate(taken(other, 2)).tolist() == next(beats).tolist()


def test_the_name_that_older_checkpoints_have() -> None:
    beats = OrderedBeats(Shuffled(np.arange(10), seed=0), 2, SEED)
    beats.load_state_dict({"position": 6, "seed": 0})
    assert beats.consumed == 6


def test_samplers_are_told_the_epoch() -> None:
    sampler = DistributedSampler(Plain(), num_replicas=1, rank=0, shuffle=True)
    beats = beats_of(DataLoader(Plain(), 5, sampler=sampler))
    epochs = [torch.cat(taken(beats, 2)).tolist() for _ in range(4)]
    assert len(set(map(tuple, epochs))) == 4
    again = beats_of(DataLoader(Plain(), 5, sampler=sampler))
    again.load_state_dict({"epoch": 2, "beats": 1})
    assert next(again).tolist() == epochs[2][5:]


class Drifting(Dataset[Any]):
    """Noise of a generator that belongs to the data set, so nobody can seed it."""

    def __init__(self) -> None:
        self.chance = np.random.default_rng(0)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.chance.random()


def numbers() -> Iterator[Any]:
    for number in range(3):
        yield torch.tensor([number])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (numbers, "a generator cannot begin anew"),
        (lambda: DataLoader(Drifting(), 2), "this DataLoader gives other batches"),
        (
            lambda: DataLoader(Augmented(), 2, num_workers=1, persistent_workers=True),
            "other batches.*try: persistent_workers=False",
        ),
        (lambda: DataLoader(Plain(), 2, num_workers=2, in_order=False), "in_order=False"),
    ],
)
def test_what_is_not_exact_is_doubted(make: Callable[[], Any], says: str) -> None:
    beats = beats_of(make())
    assert isinstance(beats, IteratedBeats)
    doubt = beats.doubt()
    assert doubt is not None
    assert re.search(says, doubt)


def test_an_iterator_is_looked_at_without_being_consumed() -> None:
    beats = beats_of(numbers())
    assert [int(beats.first()) for _ in range(2)] == [0, 0]
    assert [int(batch) for batch in taken(beats, 3)] == [0, 1, 2]
    with pytest.raises(DataError, match="a generator that has ended after 3"):
        next(beats)
    assert beats.state_dict() == {"epoch": 0, "beats": 3}
    beats = beats_of(numbers())
    beats.load_state_dict({"epoch": 0, "beats": 2})
    assert int(next(beats)) == 0, "it goes on wherever it stands"
    with pytest.raises(DataError, match="an epoch must hold a batch"):
        beats_of(iter([])).first()


@pytest.mark.parametrize(
    ("batches", "size"),
    [
        (Shuffled(np.arange(10), seed=0), 2.5),
        (Planned(lambda epoch: [1], list), None),
        (DataLoader(Plain(), 4), 3),
        (DataLoader(Stream(), 4), None),
        (Epochs(), None),
        ([], None),
    ],
)
def test_beats_in_an_epoch_where_they_are_known(batches: Any, size: float | None) -> None:
    assert beats_of(batches).beats_per_epoch() == size


def test_what_has_another_take_is_no_order() -> None:
    class Examples(list[Any]):
        def take(self, count: int) -> Any:
            return self[:count]

    for batches in (np.zeros((3, 2)), torch.zeros(3, 2), Examples([1, 2])):
        assert isinstance(beats_of(batches), IteratedBeats)


class Shrinking:
    """Fewer batches than it had before."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.size))


def test_batches_that_are_not_there_are_refused() -> None:
    beats = beats_of(Shrinking(3))
    taken(beats, 3)
    with pytest.raises(DataError, match="got 2 in epoch 0, of which 3 were consumed"):
        beats_of(Shrinking(2)).load_state_dict(beats.state_dict())
    vanishing = Shrinking(1)
    beats = beats_of(vanishing)
    next(beats)
    vanishing.size = 0
    with pytest.raises(DataError, match=r"an epoch must hold a batch.*none in epoch 1"):
        next(beats)
    with pytest.raises(DataError, match="none in epoch 0 of a DataLoader; try: drop_last=False"):
        next(beats_of(DataLoader(Plain(), 20, drop_last=True)))
    for nothing in (7, None, Plain()):
        with pytest.raises(DataError, match=r"take\(first, size\)"):
            beats_of(nothing)


@pytest.mark.parametrize("state", [{}, {"epoch": -1, "beats": 0}, {"epoch": "0", "beats": "1"}])
def test_a_state_that_says_nothing_is_refused(state: dict[str, Any]) -> None:
    for batches in (Epochs(), Stateful()):
        with pytest.raises(CheckpointError, match="how much of the data was consumed"):
            beats_of(batches).load_state_dict(state)
    with pytest.raises(CheckpointError, match="how much of the data was consumed"):
        beats_of(Shuffled(np.arange(3), seed=0)).load_state_dict({"examples": state.get("epoch")})


def test_a_state_of_the_other_kind_says_so() -> None:
    order = OrderedBeats(Shuffled(np.arange(10), seed=0), 2, SEED)
    batches = IteratedBeats([1, 2, 3], SEED)
    with pytest.raises(CheckpointError, match="got an order, where the run had an iterable"):
        order.load_state_dict(batches.state_dict())
    with pytest.raises(CheckpointError, match="got a list, where the run had an order"):
        batches.load_state_dict(order.state_dict())
