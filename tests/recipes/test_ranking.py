"""Measures of a ranking and recommenders without gradients, beside equations and other ways."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metronorm.errors import DataError

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from lib.ranking import best, gains, hits, paired_bootstrap, places
from lib.recommending import chosen, ease, item_knn, popularity


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_measures_are_those_of_a_list_that_is_sorted(seed: int, k: int) -> None:
    chance = np.random.default_rng(seed)
    users, items = 6, 15
    scores = chance.integers(0, 5, (users, items)).astype(float)  # many are equal
    seen = chance.random((users, items)) < 0.4
    targets = chance.integers(items, size=users)
    seen[np.arange(users), targets] = False
    found = places(*map(torch.from_numpy, (scores, targets, seen)))
    lists = best(torch.from_numpy(scores), torch.from_numpy(seen), items)
    for user in range(users):
        new = [item for item in range(items) if not seen[user, item]]
        ranked = sorted(new, key=lambda item: (-scores[user, item], item))
        place = ranked.index(targets[user])
        assert found[user].item() == place
        assert lists[user, : len(ranked)].tolist() == ranked
        assert hits(found, k)[user].item() == (targets[user] in ranked[:k])
        ideal = 1 / math.log2(2)  # one item is right: the best list has it first
        wanted = 1 / math.log2(place + 2) / ideal if place < k else 0.0
        assert gains(found, k)[user].item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad: float) -> None:
    scores = torch.tensor([[0.0, 1.0], [bad, 0.0]])
    seen = torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(DataError, match="scores must be finite; got 1 others"):
        places(scores, torch.tensor([0, 1]), seen)


def test_an_item_that_was_seen_cannot_be_found() -> None:
    seen = torch.tensor([[True, False]])
    with pytest.raises(DataError, match="what is to be found must be new"):
        places(torch.zeros(1, 2), torch.tensor([0]), seen)


def test_the_bootstrap_has_the_interval_of_the_normal_distribution() -> None:
    chance = np.random.default_rng(0)
    theirs = chance.random(900)
    ours = theirs + chance.normal(0.1, 0.5, 900)
    found = paired_bootstrap(ours, theirs)
    error = (ours - theirs).std() / 30
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)
    assert paired_bootstrap(ours, theirs) == found, "the draws have a seed"
    assert paired_bootstrap(theirs, theirs) == (0, 0, 0)


@pytest.fixture
def choices() -> np.ndarray:
    return (np.random.default_rng(0).random((40, 12)) < 0.3).astype(float)


def test_what_users_have_chosen() -> None:
    found = chosen([np.array([2, 0]), np.array([1])], 4)
    assert found.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]
    assert popularity(found).tolist() == [[1, 1, 1, 0]] * 2


@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_neighbours_are_those_of_the_cosines(choices: np.ndarray, neighbours: int) -> None:
    found = item_knn(choices, neighbours)
    users, items = choices.shape
    for item in range(items):
        mine = choices[:, item]
        alike = [
            (mine @ choices[:, other] / math.sqrt(mine.sum() * choices[:, other].sum()), -other)
            for other in range(items)
            if other != item
        ]
        nearest = sorted(alike, reverse=True)[:neighbours]
        for user in range(0, users, 7):
            wanted = sum(cosine for cosine, other in nearest if choices[user, -other])
            assert found[user, item] == pytest.approx(wanted, abs=1e-12)


def test_ease_solves_its_least_squares(choices: np.ndarray) -> None:
    """Column by column: the ridge regression of an item on all the others."""
    penalty = 3.0
    found = ease(choices, penalty)
    for item in range(choices.shape[1]):
        others = np.delete(choices, item, axis=1)
        gram = others.T @ others + penalty * np.eye(others.shape[1])
        weights = np.linalg.solve(gram, others.T @ choices[:, item])
        np.testing.assert_allclose(found[:, item], others @ weights, atol=1e-12)
