"""What writing texts needs beside a model: where they end, their seeds, and how many threads."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from metronorm.errors import ConfigError
from metronorm.scalars import is_integer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from metronorm.models.gpt import GPT

# Parameters of a model. With fewer, a second thread costs more than it does, and on a busy machine
# much more.
ONE_THREAD = 5_000_000


class StopText:
    """A text in pieces that ends before the first of some stops.

    What may be the beginning of a stop is held back until it is known.

    Args:
        stops: texts; none: the text goes on.

    Raises:
        ConfigError: one is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ConfigError("a text to stop at must not be empty", got="''")
        self._stops = tuple(stops)
        self._held = ""
        self.is_over = False

    def add(self, piece: str) -> str:
        """What is known to be of the text, of this piece and of what was held back."""
        if self.is_over:
            return ""
        text = self._held + piece
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            self.is_over, self._held = True, ""
            return text[: min(places)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """What is held back, at the end of the text."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may begin a stop."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)


def check_samples(samples: int) -> None:
    """Check how many texts of a prompt are wanted.

    Raises:
        ConfigError: not at least one.
    """
    if not is_integer(samples) or samples < 1:
        raise ConfigError("samples must be a whole number of at least 1", got=repr(samples))


def seeds_of(seed: int | None, number: int) -> list[int | None]:
    """The seeds of texts: one after the other from the first on; None: there is none."""
    return [None if seed is None else seed + at for at in range(number)]


@contextlib.contextmanager
def decoding_threads(model: GPT) -> Iterator[None]:
    """One thread for a small model on a CPU; the threads that there are for a large one.

    The number depends on the model alone: another one may round otherwise, and so draw another text
    from the same seed.
    """
    before = torch.get_num_threads()
    on_cpu = model.tokens.weight.device.type == "cpu"
    if on_cpu and model.config.parameters < ONE_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
