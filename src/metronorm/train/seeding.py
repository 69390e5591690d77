"""Random numbers that are a function of their place, so that no checkpoint has to keep any.

| what draws | its place |
| --- | --- |
| a forward and backward pass (dropout, noise) | seed, tick, beat |
| the loading of a beat of an `Order` | seed, examples before it |
| the loading of a beat of an iterable (shuffling, augmentation) | seed, epoch, beats before it |

At each place the global generators of torch, NumPy and Python are seeded anew. So loading and
computing cannot disturb each other, and neither can what a hook draws in between.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LOADING = 0x4C4F4144  # keeps the numbers of loading apart from those of computing


def seed_beat(seed: int, tick: int, beat: int, device: torch.device) -> None:
    """Give the generators the numbers of a forward and backward pass on the device."""
    number = _mixed(seed, tick, beat)
    _seed(number)
    if device.type != "cpu":
        torch.manual_seed(number)  # of every accelerator; it takes longer than the three together


def seed_loading(
    seed: int, major: int, minor: int = 0, *, generators: Iterable[torch.Generator] = ()
) -> None:
    """Give the generators the numbers of the loading of a beat.

    Args:
        seed: of the training.
        major: where in the data the beat is.
        minor: where in that.
        generators: that the loading draws from, beside the global ones.
    """
    number = _mixed(seed + _LOADING, major, minor)
    _seed(number)
    for generator in generators:
        generator.manual_seed(number)


@contextlib.contextmanager
def random_numbers_put_back() -> Iterator[None]:
    """Afterwards the global generators stand where they stood before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _mixed(seed: int, major: int, minor: int) -> int:
    """64 bits, each of which depends on all three."""
    mixed = (seed % 2**64 * 0x9E3779B97F4A7C15 + major * 0xBF58476D1CE4E5B9 + minor + 1) % 2**64
    mixed = ((mixed ^ (mixed >> 31)) * 0x94D049BB133111EB) % 2**64
    return mixed ^ (mixed >> 30)


def _seed(number: int) -> None:
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - it is the generator that users draw from
