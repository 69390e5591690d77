"""Recommenders without gradients, to compare with: what is popular, neighbours of items, EASE.

Each takes what users have chosen, (users, items) of 0 and 1, and gives scores of the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]


def chosen(histories: Sequence[NDArray[np.int64]], items: int) -> Matrix:
    """1 where a user has chosen an item, else 0; (users, items)."""
    found = np.zeros((len(histories), items))
    for row, history in zip(found, histories, strict=True):
        row[history] = 1
    return found


def popularity(choices: Matrix) -> Matrix:
    """How many users have chosen an item: the same for all."""
    return np.broadcast_to(choices.sum(0), choices.shape)


def item_knn(choices: Matrix, neighbours: int) -> Matrix:
    """The cosines of an item with those that the user has chosen, if they are its nearest ones.

    Sarwar, Karypis, Konstan and Riedl (2001, doi:10.1145/371920.372071), without ratings.

    Args:
        choices: (users, items).
        neighbours: of each item that count.
    """
    together = choices.T @ choices
    norms = np.sqrt(np.maximum(together.diagonal(), 1))
    cosines = together / np.outer(norms, norms)
    np.fill_diagonal(cosines, 0)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
    kept = np.zeros_like(cosines)
    np.put_along_axis(kept, nearest, np.take_along_axis(cosines, nearest, 1), 1)
    return choices @ kept.T


def ease(choices: Matrix, penalty: float) -> Matrix:
    """The linear autoencoder with a diagonal of zeros, in closed form.

    Steck (2019, arXiv:1905.03375).

    Args:
        choices: (users, items).
        penalty: of the squares of its weights.
    """
    inverse = np.linalg.inv(choices.T @ choices + penalty * np.eye(choices.shape[1]))
    weights = -inverse / inverse.diagonal()
    np.fill_diagonal(weights, 0)
    return choices @ weights


METHODS: dict[str, tuple[Callable[..., Matrix], tuple[float, ...]]] = {
    "popularity": (popularity, ()),
    "item_knn": (item_knn, (10, 20, 50, 100, 200)),
    "ease": (ease, (50, 100, 200, 500, 1000, 2000)),
}
"""The methods by name, and what to choose their one setting from, on the validation."""
