"""Several orders mixed by weight: every one has its exact share of the endless order.

The places of the mixture follow a pattern, which has each order as often as its weight says, evenly
spread, and is repeated for ever. Where an order stands follows from the place, so the whole state
is one number here too, on any number of ranks.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from metronorm.errors import ConfigError
from metronorm.scalars import as_real

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LONGEST_PATTERN = 1 << 20


class Mixture:
    """Orders mixed by weight, for ever: among the first n examples every order has its share of n.

    With two orders it is off by less than one example, with k orders by less than k, whatever n is.
    Each order goes on by itself: a small one with a large weight comes to its second epoch first.

    Args:
        orders: each with `take(first, size)`, which returns one array, or a tuple of them.
        weights: of the orders; whole numbers, or decimal ones of few digits.

    Raises:
        ConfigError: weights that are not above 0, not as many as orders, or whose smallest whole
            numbers are more than 2**20 together.

    >>> from metronorm.data import Shuffled
    >>> most, some = (Shuffled(np.full(3, k), seed=0) for k in (1, 0))
    >>> Mixture([most, some], (3, 1)).take(0, 8).tolist()
    [1, 1, 0, 1, 1, 1, 0, 1]
    """

    def __init__(self, orders: Sequence[Any], weights: Sequence[float]) -> None:
        if len(orders) != len(weights):
            raise ConfigError(
                "there must be a weight for every order",
                got=f"{len(weights)} for {len(orders)}",
            )
        self._orders = tuple(orders)
        self._counts = np.array(whole_weights(weights), dtype=np.int64)
        self._pattern, self._before = _pattern(self._counts)

    def take(self, first: int, size: int) -> Any:
        """Examples `first` to `first + size` of the order: an array, or a tuple of arrays."""
        places = first + np.arange(size)
        rounds, within = np.divmod(places, len(self._pattern))
        order_of = self._pattern[within]
        index = rounds * self._counts[order_of] + self._before[within]
        rows: list[Any] = []
        where: list[NDArray[np.int64]] = []
        for number, order in enumerate(self._orders):
            chosen = np.flatnonzero(order_of == number)
            if len(chosen):  # those of one order follow each other
                rows.append(order.take(int(index[chosen[0]]), len(chosen)))
                where.append(chosen)
        back = np.argsort(np.concatenate(where), kind="stable")
        if isinstance(rows[0], tuple):
            columns = zip(*rows, strict=True)
            return tuple(np.concatenate(column)[back] for column in columns)
        return np.concatenate(rows)[back]


def whole_weights(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers that are to each other as the weights are.

    Raises:
        ConfigError: a weight that is not above 0 and finite; or numbers that are too large.
    """
    exact = []
    for weight in weights:
        number = as_real(weight)
        if number is None or not 0 < number < math.inf:
            raise ConfigError("weights must be above 0", got=repr(weight), fix="3 1")
        exact.append(Fraction(str(number)))  # as it was written: 0.1 is a tenth
    shared = math.lcm(*(each.denominator for each in exact))
    whole = [int(each * shared) for each in exact]
    divisor = math.gcd(*whole)
    whole = [each // divisor for each in whole]
    if sum(whole) > LONGEST_PATTERN:
        raise ConfigError(
            f"weights must be as whole numbers that are at most {LONGEST_PATTERN:,} together",
            got=f"{', '.join(f'{weight:g}' for weight in weights)}, which are as "
            f"{', '.join(map(str, whole))}"[:200],
            fix="fewer digits",
        )
    return whole


def _pattern(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which order has each place of a round, and how many places that order had in it before.

    The j-th example of an order with n in a round is due when (j + 1/2) / n of the round is over.
    """
    order_of = np.repeat(np.arange(len(counts)), counts)
    before = np.concatenate([np.arange(count) for count in counts])
    due = (2 * before + 1) / (2 * counts[order_of])
    by_time = np.lexsort((order_of, due))
    return order_of[by_time], before[by_time]
