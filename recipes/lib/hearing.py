"""Sound on its way to a model: batches of like lengths, and what makes each of them new."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Group(NamedTuple):
    """Examples of about one length, and the seed of what is random about them."""

    examples: list[int]
    seed: tuple[int, ...]


def groups(lengths: Sequence[int], most: int, *, seed: int, epoch: int) -> list[Group]:
    """An epoch of examples in batches that hold at most `most` frames, padding counted.

    Lengths are sorted with some noise, so that the same examples do not always meet, and the groups
    are shuffled. A longer example is a group by itself.
    """
    chance = np.random.default_rng((seed, epoch))
    noisy = np.asarray(lengths) * chance.uniform(0.9, 1.1, len(lengths))
    found: list[list[int]] = [[]]
    longest = 0
    for example in np.argsort(noisy, kind="stable").tolist():
        longest = max(longest, lengths[example])
        if found[-1] and longest * (len(found[-1]) + 1) > most:
            found.append([])
            longest = lengths[example]
        found[-1].append(example)
    order = chance.permutation(len(found)).tolist()
    return [Group(found[place], (seed, epoch, place)) for place in order]


def padded(rows: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of several lengths as one array, (batch, time, bands), and their lengths."""
    lengths = np.array([len(row) for row in rows])
    whole = np.zeros((len(rows), lengths.max(), rows[0].shape[1]), np.float32)
    for place, row in enumerate(rows):
        whole[place, : len(row)] = row
    return whole, lengths


def standardized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every band with mean 0 and deviation 1 over the frames."""
    deviation = np.maximum(features.std(axis=0), 1e-3)
    return np.asarray((features - features.mean(axis=0)) / deviation, dtype=np.float32)


def stretched(features: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """The same features in so many frames, by linear interpolation."""
    return between(features, np.linspace(0, len(features) - 1, frames))


def warped(features: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Features whose band b is what was in band b * factor: another length of the vocal tract."""
    bands = features.shape[1]
    places = np.minimum(np.arange(bands) * factor, bands - 1)
    return np.ascontiguousarray(between(features.T, places).T)


def between(rows: NDArray[np.float32], places: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows, (time, bands), at places that need not be whole numbers, by linear interpolation."""
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, len(rows) - 1)
    part = (places - low).astype(np.float32)[:, None]
    return rows[low] * (1 - part) + rows[high] * part


def masked(
    features: NDArray[np.float32],
    chance: np.random.Generator,
    *,
    bands: int = 2,
    widest: int = 20,
    every: int = 60,
    longest: int = 25,
) -> NDArray[np.float32]:
    """SpecAugment (Park et al., 2019, arXiv:1904.08779): stripes of a copy become 0.

    Args:
        features: (time, bands), of mean 0.
        chance: draws the places.
        bands: stripes over bands.
        widest: of these, at most.
        every: one stripe of time for so many frames.
        longest: frames of these, at most; also a fifth of the whole.
    """
    time, height = features.shape
    result = features.copy()
    for _ in range(bands):
        size = int(chance.integers(0, min(widest, height // 2) + 1))
        begin = int(chance.integers(0, height - size + 1))
        result[:, begin : begin + size] = 0
    for _ in range(round(time / every)):
        size = int(chance.integers(0, min(longest, time // 5) + 1))
        begin = int(chance.integers(0, time - size + 1))
        result[begin : begin + size] = 0
    return result
