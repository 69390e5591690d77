"""Measures of a ranking of all items, of which those that a user has seen are left out.

HR@k is the share of users whose item is among the first k; NDCG@k gives 1 / log2(rank + 1) for it,
with ranks from 1 on. Nothing is sampled: among a hundred random items, every method looks better,
and some change places (Krichene and Rendle, 2020, doi:10.1145/3394486.3403226).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metronorm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def places(scores: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """The place of each user's target among the items that the user has not seen, from 0 on.

    Of equal scores, the item of the lower number comes first, whatever the target is.

    Args:
        scores: (users, items).
        targets: the item of each user, (users,).
        seen: bool, (users, items): what is left out.

    Returns:
        int64 (users,).

    Raises:
        DataError: a score is NaN or infinite, or a target has been seen.
    """
    if not scores.isfinite().all():
        raise DataError("scores must be finite", got=f"{int((~scores.isfinite()).sum())} others")
    target = targets[:, None]
    if seen.gather(1, target).any():
        raise DataError("what is to be found must be new", got="an item that its user has seen")
    of_target = scores.gather(1, target)
    before = torch.arange(scores.shape[1], device=scores.device) < target
    return (~seen & ((scores > of_target) | ((scores == of_target) & before))).sum(1)


def hits(places: Tensor, k: int = 10) -> Tensor:
    """1 for each target that is among the first k, else 0; float64."""
    return (places < k).double()


def gains(places: Tensor, k: int = 10) -> Tensor:
    """The discounted gain of each target, of which the mean is NDCG@k; float64."""
    return hits(places, k) / (places.double() + 2).log2()


def best(scores: Tensor, seen: Tensor, k: int = 10) -> Tensor:
    """The first k items that each user has not seen, (users, k), as `places` orders them."""
    hidden = scores.masked_fill(seen, -torch.inf)
    return hidden.sort(dim=1, descending=True, stable=True).indices[:, :k]


class Difference(NamedTuple):
    """A mean difference, and the ends of its interval of 95 %."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, draws: int = 10_000, seed: int = 0
) -> Difference:
    """How much higher the mean of ours is, with users drawn anew, each with both of its values.

    The interval has the percentiles 2.5 and 97.5 (Efron, 1979, doi:10.1214/aos/1176344552).

    Args:
        ours: of each user, (users,).
        theirs: of the same users, in the same order.
        draws: of as many users, with replacement.
        seed: of the draws.
    """
    each = ours - theirs
    chance = np.random.default_rng(seed)
    times = chance.multinomial(len(each), np.full(len(each), 1 / len(each)), size=draws)
    low, high = np.percentile(times @ each / len(each), (2.5, 97.5))
    return Difference(float(each.mean()), float(low), float(high))
