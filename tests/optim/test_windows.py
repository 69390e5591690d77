"""Windows: their weights and sizes, and their position on disk."""

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from metronorm.errors import ConfigError, DataError
from metronorm.optim import Ticks, Window, windows
from tests.optim import replay
from tests.optim.replay import UNEQUAL, Net, batches, count, refused, same


class Source:
    """Batches that save and restore their position."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.taken = items, 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        while self.taken < len(self.items):
            self.taken += 1
            yield self.items[self.taken - 1]

    def state_dict(self) -> dict[str, int]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.taken = state["taken"]


# Weights and sizes -------------------------------------------------------------------------------


def test_weights_are_of_all_tokens_of_a_window() -> None:
    found = list(windows(batches(UNEQUAL), 3, count=count))
    assert [window.count for window in found] == [35, 21, 19]
    assert [window.beats for window in found] == [len(window) for window in found] == [3, 3, 1]
    assert [window.weight for window in found] == [1 / 35, 1 / 21, 1 / 19]
    assert [weight for window in found for _, weight in window] == [
        *[1 / 35] * 3,
        *[1 / 21] * 3,
        1 / 19,
    ]


@pytest.mark.parametrize("ranks", ["mean", "sum"])
def test_one_process_is_one_rank(ranks: Any) -> None:
    assert next(windows([5], 1, count=int, ranks=ranks)).weight == 1 / 5


def test_batches_come_in_their_order_and_once() -> None:
    window = next(windows("abc", 3, count=lambda _: 1))
    assert window.done == 0
    assert [batch for batch, _ in window] == ["a", "b", "c"]
    assert window.done == 3
    assert list(window) == []


def test_a_window_is_read_when_it_is_asked_for() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    several = windows(source(), 2, count=lambda _: 1)
    assert taken == []
    next(several)
    assert taken == [0, 1]
    next(several)
    assert taken == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 99])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_length_is_the_number_of_windows(length: int, size: int) -> None:
    several = windows([1] * length, size, count=int)
    assert len(several) == len(list(several))


def test_length_is_unknown_of_what_has_none() -> None:
    with pytest.raises(TypeError, match="has no len"):
        len(windows(iter([1]), 1, count=int))


# Epochs ------------------------------------------------------------------------------------------


class Epochs(Source):
    """Batches that begin a new epoch after the end of one, as torchdata's loaders do."""

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        self.taken = 0


def test_a_second_for_is_a_second_epoch() -> None:
    loader = torch.utils.data.DataLoader(list(range(1, 6)), batch_size=1)
    for source in (range(1, 6), loader, Epochs(list(range(1, 6)))):
        several = windows(source, 2, count=lambda _: 1)
        first = [[int(batch) for batch, _ in window] for window in several]
        assert first == [[1, 2], [3, 4], [5]]
        for _ in range(3):
            assert len(several) == len(first)
            assert [[int(batch) for batch, _ in window] for window in several] == first


def test_every_epoch_has_an_order_of_its_own_if_the_batches_have() -> None:
    loader = torch.utils.data.DataLoader(range(100), batch_size=1, shuffle=True)
    several = windows(loader, 10, count=lambda _: 1)
    epochs = [[int(batch) for window in several for batch, _ in window] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100))


def test_a_for_that_was_left_goes_on() -> None:
    several = windows(range(1, 7), 2, count=int)
    for window in several:
        assert window.count == 3
        break
    assert [window.count for window in several] == [7, 11]
    assert [window.count for window in several] == [3, 7, 11]


def test_a_for_that_was_left_after_the_last_window_begins_again() -> None:
    several = windows(range(1, 7), 2, count=int)
    for _ in range(3):  # zip() asks the shorter first, and never sees the end of the windows
        assert [window.count for _, window in zip(range(3), several)] == [3, 7, 11]  # noqa: B905


def test_after_the_end_there_is_no_next_window() -> None:
    several = windows([1, 2], 2, count=int)
    list(several)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(several)


@pytest.mark.parametrize(
    "source",
    [lambda: iter([1, 2, 3]), lambda: (n for n in (1, 2, 3)), lambda: Source([1, 2, 3])],
    ids=["iterator", "generator", "stays at its end"],
)
def test_batches_that_cannot_begin_again_are_an_error_in_the_second_epoch(source: Any) -> None:
    batches = source()
    several = windows(batches, 2, count=int)
    assert [window.count for window in several] == [3, 3]
    for _ in range(2):
        expected = "only where their batches can", f"a {type(batches).__name__} that has ended"
        refused(DataError, lambda: list(several), *expected, "new windows for every epoch")


def test_without_batches_every_epoch_is_empty() -> None:
    several = windows([], 2, count=int)
    assert [list(several) for _ in range(3)] == [[], [], []]


@pytest.mark.parametrize("taken", [5, 6, 7, 9])
def test_a_run_goes_on_in_its_second_epoch(taken: int) -> None:
    """After so many beats of two epochs of five; also right at the end of the first."""
    items = list(range(1, 6))
    first = windows(Epochs(items), 2, count=int)
    beats = [beat for _ in range(2) for beat in seen(first)]
    first, found = windows(Epochs(items), 2, count=int), []
    for beat in itertools.chain.from_iterable(beats_of(first) for _ in range(2)):
        found.append(beat)
        if len(found) == taken:
            break
    again = windows(Epochs(items), 2, count=int)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    found += seen(again)
    if len(found) < len(beats):
        found += seen(again)
    assert found == beats


def test_size_can_change_between_windows() -> None:
    several = windows(range(1, 10), 2, count=int)
    assert next(several).beats == 2
    several.micro_batches = 4
    assert [window.beats for window in several] == [4, 3]


def test_size_that_changes_inside_a_window_holds_from_the_next_on() -> None:
    several = windows(range(1, 10), 2, count=int)
    window = next(several)
    next(iter(window))
    several.micro_batches = 3
    assert len(list(window)) == 1
    assert next(several).beats == 3


def test_beats_without_tokens_are_of_no_weight() -> None:
    window = next(windows([0, 3, 0], 3, count=int))
    assert (window.beats, window.count, window.weight) == (3, 3, 1 / 3)


def test_windows_without_tokens_are_refused() -> None:
    several = windows([1, 0, 0, 0], 2, count=int)
    next(several)
    refused(DataError, lambda: next(several), "at least one token", "0 in the 2 beats of window 2")


@pytest.mark.parametrize(
    "wrong", [-1, 1.5, math.nan, math.inf, None, "3", torch.tensor(0.5)], ids=str
)
def test_counts_are_whole_numbers(wrong: Any) -> None:
    several = windows([1], 1, count=lambda _: wrong)
    refused(DataError, lambda: next(several), "count must give a whole number", repr(wrong))


@pytest.mark.parametrize("right", [3, 3.0, torch.tensor(3), torch.tensor(3.0)], ids=str)
def test_counts_of_other_types(right: Any) -> None:
    assert next(windows([1], 1, count=lambda _: right)).weight == 1 / 3


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "2", None])
def test_sizes_below_one_are_refused(wrong: Any) -> None:
    refused(ConfigError, lambda: windows([1], wrong, count=int), "micro_batches", repr(wrong))
    several = windows([1], 1, count=int)
    with pytest.raises(ConfigError, match="micro_batches must be at least 1"):
        several.micro_batches = wrong
    assert several.micro_batches == 1


def test_ranks_are_known() -> None:
    wrong: Any = "max"
    refused(ConfigError, lambda: windows([1], 1, count=int, ranks=wrong), 'must be "mean"', "'max'")


# To and from disk --------------------------------------------------------------------------------


def beats_of(several: Iterator[Window[int]]) -> Iterator[tuple[int, int, float]]:
    """Window by window: the size, and each beat that is handed out with its weight."""
    return ((w.beats, batch, weight) for w in several for batch, weight in w)


def seen(several: Iterator[Window[int]]) -> list[tuple[int, int, float]]:
    return list(beats_of(several))


@pytest.mark.parametrize("knows", [True, False], ids=["source with a place", "source without"])
@pytest.mark.parametrize("taken", range(12))
def test_a_run_goes_on_at_its_beat(taken: int, knows: bool) -> None:
    items = list(range(1, 12))
    full = seen(windows(items, 4, count=int))
    first = windows(Source(items) if knows else items, 4, count=int)
    found = []
    for window in first:
        for batch, weight in window:
            if len(found) == taken:
                break
            found.append((window.beats, batch, weight))
            state = copy.deepcopy(first.state_dict())
        if len(found) == taken:
            break
    if not taken:
        state = windows(Source(items) if knows else items, 4, count=int).state_dict()
    rest = items[state["windows"] * state["micro_batches"] :]
    again = windows(Source(items) if knows else rest, 4, count=int)
    again.load_state_dict(state)
    assert again.state_dict() == state
    assert found + seen(again) == full


def test_state_of_a_window_that_was_read_but_not_begun() -> None:
    first = windows(Source([1, 2, 3]), 2, count=int)
    next(first)
    state = first.state_dict()
    assert state == {"windows": 0, "beats": 0, "micro_batches": 2, "batches": {"taken": 0}}
    again = windows(Source([1, 2, 3]), 2, count=int)
    again.load_state_dict(state)
    assert [window.beats for window in again] == [2, 1]


def test_between_windows_their_size_may_change() -> None:
    first = windows(Source([1, 2, 3, 4]), 2, count=int)
    list(next(first))
    again = windows(Source([1, 2, 3, 4]), 1, count=int)
    again.load_state_dict(first.state_dict())
    assert [batch for _, batch, _ in seen(again)] == [3, 4]


def test_inside_a_window_its_size_stays() -> None:
    first = windows(Source([1, 2, 3, 4]), 3, count=int)
    next(iter(next(first)))
    first.micro_batches = 4  # of the next one
    state = first.state_dict()
    assert (state["beats"], state["micro_batches"]) == (1, 3)
    other = windows(Source([1, 2, 3, 4]), 4, count=int)
    refused(ConfigError, lambda: other.load_state_dict(state), "keeps its size", "after 1 of 3")
    assert [window.beats for window in other] == [4]
    again = windows(Source([1, 2, 3, 4]), 3, count=int)
    again.load_state_dict(state)
    with pytest.raises(ConfigError, match="keeps its size"):
        again.micro_batches = 4
    assert [batch for _, batch, _ in seen(again)] == [2, 3, 4]


@pytest.mark.parametrize("name", ["windows", "beats", "micro_batches"])
def test_states_that_are_none(name: str) -> None:
    several = windows([1], 1, count=int)
    state = several.state_dict()
    del state[name]
    refused(ConfigError, lambda: several.load_state_dict(state), "must hold their position", name)


@pytest.mark.parametrize("taken", range(8))
def test_training_goes_on_inside_a_window(taken: int) -> None:
    """With the optimizer's state: bitwise where the run that was not stopped ends."""
    whole = Net()
    replay.train_in_windows(whole, UNEQUAL, 3)
    model = Net()
    optimizer, source = Ticks(model.parameters(), 0.1, 0.9), Source(batches(UNEQUAL))
    several, beats = windows(source, 3, count=count), 0
    window = next(several)
    while beats < taken:
        if window.done == window.beats:
            optimizer.step()
            window = next(several)
        batch, weight = next(iter(window))
        (weight * replay.summed_loss(model, batch)).backward()
        beats += 1
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), several.state_dict()))
    ended = window.done == window.beats
    resumed = Net(seed=1)
    again = Ticks(resumed.parameters(), 0.5)
    rest = windows(Source(batches(UNEQUAL)), 3, count=count)
    for each, state in zip((resumed, again, rest), saved, strict=True):
        each.load_state_dict(state)
    if ended:  # all beats of the window are done, and its tick is still to come
        again.step()
    for window in rest:
        for batch, weight in window:
            (weight * replay.summed_loss(resumed, batch)).backward()
        again.step()
    assert same(dict(resumed.named_parameters()), dict(whole.named_parameters()))
