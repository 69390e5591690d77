import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.data.mixture import LONGEST_PATTERN, Mixture, whole_weights
from metronorm.data.sampler import WindowSampler
from metronorm.data.shuffled import Shuffled
from metronorm.errors import ConfigError


def mixture_of(sizes: list[int], weights: list[float]) -> Mixture:
    """An example is 1,000 * its order + its number."""
    orders = [Shuffled(np.arange(size) + 1000 * k, seed=k) for k, size in enumerate(sizes)]
    return Mixture(orders, weights)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=5),
    st.integers(0, 500),
)
def test_every_order_has_its_share_and_goes_on_by_itself(
    pairs: list[tuple[int, int]], first: int
) -> None:
    sizes, weights = (list(each) for each in zip(*pairs, strict=True))
    mixture = mixture_of(sizes, [float(weight) for weight in weights])
    taken = mixture.take(0, first + 200)
    counts = np.array([np.cumsum(taken // 1000 == k) for k in range(len(sizes))])
    shares = np.array(weights) / sum(weights)
    off = np.abs(counts - shares[:, None] * np.arange(1, len(taken) + 1))
    assert off.max() < len(sizes)
    if len(sizes) == 2:
        assert off.max() < 1
    for k, size in enumerate(sizes):  # each is what it would be alone
        own = taken[taken // 1000 == k]
        alone = Shuffled(np.arange(size) + 1000 * k, seed=k).take(0, len(own))
        assert own.tolist() == alone.tolist()
    # whoever goes on from a place, with batches of any size, takes the same
    parts = [mixture.take(first + place, 40) for place in range(0, 200, 40)]
    assert np.concatenate(parts).tolist() == taken[first:].tolist()


def test_windows_of_several_texts_are_mixed() -> None:
    texts = [np.arange(100, dtype=np.uint16) + 1000 * k for k in range(2)]
    samplers = [WindowSampler(text, 8, 4, seed=k) for k, text in enumerate(texts)]
    inputs, targets = Mixture(samplers, (0.75, 0.25)).take(4, 8)
    assert inputs.shape == targets.shape == (8, 8)
    assert (inputs + 1 == targets).all()
    assert sorted((inputs[:, 0] // 1000).tolist()) == [0] * 6 + [1] * 2


def test_ranks_share_the_order() -> None:
    mixture = mixture_of([30, 7], [2, 1])
    one = mixture.take(0, 64)
    for ranks in (2, 4):
        size = 16 // ranks
        turns = [mixture.take(turn * size, size) for turn in range(64 // size)]
        assert np.concatenate(turns).tolist() == one.tolist()


def test_weights_are_exact() -> None:
    assert whole_weights((0.1, 0.2, 0.7)) == [1, 2, 7]
    assert whole_weights((3, 1.5)) == [2, 1]
    for weights in ((0.0, 1.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)):
        with pytest.raises(ConfigError, match="above 0"):
            whole_weights(weights)
    with pytest.raises(ConfigError, match=f"at most {LONGEST_PATTERN:,} together"):
        whole_weights((1 / 3, 1))
    with pytest.raises(ConfigError, match="a weight for every order; got 1 for 2"):
        mixture_of([3, 4], [1])
