import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metronorm.data import InOrder, Planned, Shuffled
from metronorm.data.shuffled import hash_columns, permute, shuffled_places
from metronorm.errors import ConfigError, DataError

quick = settings(deadline=None, max_examples=100)
seeds = st.integers(-(2**70), 2**70)


def permuted(size: int, key: int) -> NDArray[np.int64]:
    return permute(np.arange(size), size, np.full(size, key, dtype=np.uint64))


@pytest.mark.parametrize("size", [*range(1, 40), 100, 255, 256, 257, 1000, 4099, 65_536, 100_003])
def test_a_permutation_is_one_to_one(size: int) -> None:
    for key in (0, 1, 2**64 - 1):
        assert np.array_equal(np.sort(permuted(size, key)), np.arange(size))


def test_permutations_differ_by_key_and_are_spread_evenly() -> None:
    size, trials = 50, 4000
    where = np.array([permuted(size, key) for key in range(trials)])  # (trials, size)
    expected = trials / size
    for place in (0, 1, 25, 49):
        counts = np.bincount(where[:, place], minlength=size)
        assert ((counts - expected) ** 2 / expected).sum() < 100  # chi square, 49 degrees: p 2e-5
    steps = np.bincount((where[:, 1] - where[:, 0]) % size, minlength=size)[1:]
    expected = trials / (size - 1)
    assert ((steps - expected) ** 2 / expected).sum() < 100


@quick
@given(size=st.integers(1, 300), seed=seeds, epochs=st.integers(1, 4))
def test_every_epoch_has_each_example_once(size: int, seed: int, epochs: int) -> None:
    order = Shuffled(np.arange(size), seed=seed)
    taken = order.take(0, epochs * size).reshape(epochs, size)
    assert np.array_equal(np.sort(taken, axis=1), np.tile(np.arange(size), (epochs, 1)))
    assert order.examples_per_epoch == size


@quick
@given(size=st.integers(1, 50), seed=seeds, first=st.integers(0, 10**12), data=st.data())
def test_the_order_is_a_function_of_the_place(
    size: int, seed: int, first: int, data: st.DataObject
) -> None:
    """However it is cut into batches, and wherever it is begun."""
    order = Shuffled(np.arange(size), seed=seed)
    sizes = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=8))
    whole = order.take(first, sum(sizes))
    parts, place = [], first
    for part in sizes:
        parts.append(Shuffled(np.arange(size), seed=seed).take(place, part))
        place += part
    assert np.array_equal(np.concatenate(parts), whole)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    epochs = Shuffled(np.arange(20), seed=0).take(0, 2000).reshape(100, 20)
    assert len({row.tobytes() for row in epochs}) == 100
    firsts = [Shuffled(np.arange(20), seed=seed).take(0, 20) for seed in range(-50, 50)]
    assert len({row.tobytes() for row in firsts}) == 100


def test_a_million_examples_need_no_memory_of_the_order() -> None:
    order = Shuffled(np.arange(10**6, dtype=np.int32), seed=0)
    assert np.array_equal(np.sort(order.take(10**6, 10**6)), np.arange(10**6))
    order.take(0, 64)
    tracemalloc.start()
    try:
        order.take(123_456_789, 64)
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_columns_keep_their_kind_and_their_rows() -> None:
    names = [f"image {number}" for number in range(7)]
    order = Shuffled(np.arange(7), torch.arange(7.0) * 2, names, seed=3)
    numbers, doubled, named = order.take(5, 9)
    assert isinstance(numbers, np.ndarray)
    assert isinstance(doubled, torch.Tensor)
    assert doubled.tolist() == [2.0 * number for number in numbers]
    assert named == [f"image {number}" for number in numbers]
    assert isinstance(Shuffled(names, seed=0).take(0, 1), list)


def test_a_memory_map_is_read_and_not_changed(tmp_path: Path) -> None:
    np.arange(60, dtype=np.float32).tofile(tmp_path / "images")
    images = np.memmap(tmp_path / "images", dtype=np.float32, mode="r", shape=(20, 3))
    order = Shuffled(images, seed=0)
    batch = order.take(0, 8)
    assert type(batch) is np.ndarray
    assert batch.flags.writeable
    batch[:] = 0
    assert images[1].tolist() == [3, 4, 5]
    assert order.data_id == Shuffled(np.array(images), seed=0).data_id


def test_random_numbers_of_a_transform_are_those_of_the_place() -> None:
    def noisy(batch: Any, rng: np.random.Generator) -> Any:
        return batch + rng.random(len(batch))

    order = Shuffled(np.arange(10), seed=5, transform=noisy)
    batches = [order.take(first, 4) for first in range(0, 40, 4)]
    for number in (7, 0, 3):  # in any sequence
        again = Shuffled(np.arange(10), seed=5, transform=noisy).take(4 * number, 4)
        assert np.array_equal(again, batches[number])
    assert len(np.unique(np.concatenate(batches) % 1)) == 40
    other = Shuffled(np.arange(10), seed=6, transform=noisy).take(0, 4)
    assert not np.isin(other % 1, batches[0] % 1).any()
    negative = Shuffled(np.arange(10), seed=-1, transform=noisy)
    assert np.array_equal(negative.take(0, 4), negative.take(0, 4))


def test_the_id_of_the_data_is_that_of_its_content() -> None:
    images, labels = np.arange(6.0).reshape(3, 2), np.arange(3)

    def name(*columns: Any) -> str | None:
        return Shuffled(*columns, seed=0).data_id

    whole = name(images, labels)
    assert whole == name(images.copy(order="F"), labels.copy()), "however it lies in memory"
    others = [
        name(images + (images == 5), labels),
        name(images.astype(np.float32), labels),
        name(images.reshape(3, 2, 1), labels),
        name(labels, images),
        name(images),
        name(torch.from_numpy(images), torch.from_numpy(labels)),
    ]
    assert len({whole, *others}) == 7
    assert name(images, ["a", "b", "c"]) is None
    assert name(np.array([None, 1, "x"])) is None
    assert Shuffled(images, seed=0, data_id="version 3").data_id == "version 3"


@pytest.mark.parametrize(
    "column",
    [
        torch.zeros(4, 2, dtype=torch.bfloat16, requires_grad=True),
        torch.zeros(4, dtype=torch.bool),
        torch.zeros(2, 4).T,
        np.zeros(4, dtype="datetime64[s]"),
        np.array(["one", "two", "three", "four"]),
        np.zeros((4, 0)),
        np.zeros(4, dtype=[("x", "f4"), ("y", "i2")]),
        np.zeros((2, 4)).T[:, ::-1],
    ],
)
def test_every_kind_of_array_has_an_id(column: Any) -> None:
    assert hash_columns([column]) == hash_columns([column]) is not None
    assert len(Shuffled(column, seed=0).take(1, 3)) == 3


def test_large_rows_are_hashed_in_parts() -> None:
    rows = np.zeros((3, 5 << 20), dtype=np.uint16)  # 10 MiB each, so one at a time
    before = hash_columns([rows])
    rows[2, -1] = 1
    assert hash_columns([rows]) != before


class Table(dict[str, Any]):
    """Of columns by name, such as a data frame."""


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ([], r"one at least; got \[\]"),
        ([np.zeros(3), np.zeros(4)], r"as many examples.*got \[3, 4\]"),
        ([[]], r"one at least; got \[0\]"),
        ([np.zeros(())], "must be an array.*unsized"),
        ([torch.tensor(1.0)], "must be an array.*0-d tensor"),
        ([7], "got a int"),
        ([(number for number in range(3))], "got a generator"),
        ([Table(x=[1], y=[2])], "numbers from 0 on; got a Table, which has labels"),
    ],
)
def test_columns_that_cannot_work_are_refused(columns: list[Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Shuffled(*columns, seed=0)
    with pytest.raises(DataError, match=says):
        InOrder(*columns, batch_size=2)


@pytest.mark.parametrize("seed", [0.5, None, True, "0"])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed"):
        Shuffled([1], seed=seed)


@quick
@given(size=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_in_order_has_each_example_once_and_in_order(size: int, batch_size: int) -> None:
    batches = InOrder(np.arange(size), list(range(size)), batch_size=batch_size)
    for _ in range(2):  # it can be read again
        read = list(batches)
        assert len(read) == len(batches)
        assert [number for batch, _ in read for number in batch] == list(range(size))
        assert [number for _, batch in read for number in batch] == list(range(size))
        assert all(len(batch) == batch_size for batch, _ in read[:-1])
    assert torch.equal(next(iter(InOrder(torch.arange(3), batch_size=2))), torch.arange(2))


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None, True])
def test_a_batch_has_an_example(batch_size: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        InOrder([1], batch_size=batch_size)


class Plans:
    """Plans whose items are (epoch, place), and how often each was made."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.made = lengths, Counter[int]()

    def __call__(self, epoch: int) -> list[tuple[int, int]]:
        self.made[epoch] += 1
        return [(epoch, place) for place in range(self.lengths[epoch % len(self.lengths)])]

    def reference(self, items: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        epoch = 0
        while len(found) < items:
            length = self.lengths[epoch % len(self.lengths)]
            found += [(epoch, place) for place in range(length)]
            epoch += 1
        return found


@quick
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    looks=st.lists(st.tuples(st.integers(0, 150), st.integers(1, 40)), min_size=1, max_size=8),
)
def test_a_plan_gives_each_place_its_item(lengths: list[int], looks: list[tuple[int, int]]) -> None:
    """Plans of any lengths, far ahead and back again."""
    plans = Plans(lengths)
    order, expected = Planned(plans, list), plans.reference(200)
    for first, size in looks:
        assert order.take(first, size) == expected[first : first + size]


def test_plans_are_made_once_while_the_order_goes_on() -> None:
    plans = Plans([7, 3, 11])
    order = Planned(plans, len)
    for first in range(0, 200, 4):
        assert order.take(first, 4) == 4
    assert set(plans.made.values()) == {1}
    order.take(0, 8)
    assert plans.made[0] == plans.made[1] == 2, "once for a batch that goes back, not for each item"


def test_one_plan_is_kept_in_memory() -> None:
    alive: list[Any] = []

    class Items(list[int]):
        def __del__(self) -> None:
            alive.remove(id(self))

    def plan(epoch: int) -> Items:
        items = Items(range(10))
        alive.append(id(items))
        return items

    order = Planned(plan, sum)
    for first in range(0, 200, 5):
        order.take(first, 5)
        assert len(alive) == 1


def test_plans_that_cannot_work_are_refused() -> None:
    empty = Planned(lambda epoch: [] if epoch == 2 else [1], list)
    assert empty.take(0, 2) == [1, 1]
    with pytest.raises(DataError, match="none in epoch 2"):
        empty.take(1, 2)
    with pytest.raises(DataError, match="none in epoch 2"):
        empty.take(9, 1)
    lengths = iter([5, 5, 4])
    drifting = Planned(lambda epoch: list(range(next(lengths))), list)
    drifting.take(4, 2)
    with pytest.raises(DataError, match="4 items in epoch 0, which had 5"):
        drifting.take(0, 5)


def test_a_plan_may_be_an_array() -> None:
    order = Planned(lambda epoch: np.arange(4) + 10 * epoch, np.array)
    assert order.take(2, 4).tolist() == [2, 3, 10, 11]


def test_places_are_of_any_shape() -> None:
    places = np.arange(12).reshape(3, 4)
    whole = shuffled_places(places, 5, seed=2)
    assert whole.shape == (3, 4)
    assert np.array_equal(whole.ravel(), shuffled_places(places.ravel(), 5, seed=2))
