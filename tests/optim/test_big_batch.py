"""A window of any number of beats of any sizes makes the update of the one big batch."""

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from metronorm.optim import windows
from tests.optim import replay
from tests.optim.replay import FP32, FP64, ROUNDING, UNEQUAL, Net, batches, count, far


def in_big_batches(model: Net, lengths: list[int], size: int) -> None:
    sgd = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    for first in range(0, len(lengths), size):
        batch = replay.joined(batches(lengths)[first : first + size])
        (replay.summed_loss(model, batch) / count(batch)).backward()
        sgd.step()
        sgd.zero_grad()


def difference(lengths: list[int], size: int, dtype: torch.dtype) -> float:
    given, other = Net(dtype), Net(dtype)
    replay.train_in_windows(given, lengths, size)
    in_big_batches(other, lengths, size)
    return far(dict(given.named_parameters()), dict(other.named_parameters()))


@pytest.mark.parametrize("dtype", [FP64, FP32])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_window_is_the_one_big_batch(size: int, dtype: torch.dtype) -> None:
    assert difference(UNEQUAL * 3, size, dtype) < 16 * ROUNDING[dtype]


@settings(deadline=None, max_examples=60)
@drawn(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 8))
def test_any_window_is_the_one_big_batch(lengths: list[int], size: int) -> None:
    assert difference(lengths, size, FP64) < 16 * ROUNDING[FP64]


def test_the_mean_of_the_beats_means_is_something_else() -> None:
    """What is common elsewhere: each beat's mean loss, divided by the number of beats."""
    right, wrong, exact = Net(), Net(), Net()
    for batch, weight in next(windows(batches(UNEQUAL), 7, count=count)):
        (weight * replay.summed_loss(right, batch)).backward()
        (replay.summed_loss(wrong, batch) / count(batch) / 7).backward()
    batch = replay.joined(batches(UNEQUAL))
    (replay.summed_loss(exact, batch) / count(batch)).backward()
    want = replay.gradients(exact)
    assert far(replay.gradients(right), want) < 16 * ROUNDING[FP64]
    assert far(replay.gradients(wrong), want) > 0.1
