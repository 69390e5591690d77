"""Lines of speech with what is said in them, and what a recognizer hears instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lib.hearing import Group, masked, padded, standardized, stretched, warped
from metronorm.data import czech_lines, log_mel, read_sound
from metronorm.data.speech import LETTERS, letters
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from metronorm.data.speech import Line

RATE, BANDS = 16_000, 80
SYMBOLS = len(LETTERS) + 1  # the blank of CTC is 0
FEWER = 4  # frames of the features for one of the model
SLACK = 1.05  # more of them than symbols need: no path is the only one


class Spoken(NamedTuple):
    """A line: its features, float32 (time, BANDS), its text, and that as symbols."""

    line: Line
    features: NDArray[np.float32]
    text: str
    symbols: NDArray[np.int64]


class Parts(NamedTuple):
    """Lines of levels to learn from, to watch, and to test on at the end."""

    train: list[Spoken]
    validation: list[Spoken]
    test: list[Spoken]


def listen(folder: str, share: float = 1.0) -> Parts:
    """Read all lines whose text is spelled, and split them by level.

    Of the levels in the order of their names, the first of every ten is for the test, and the sixth
    to watch. Lines too short for their text are left out.

    Args:
        folder: of the game; empty: that of the packages.
        share: of the levels to learn from.

    Raises:
        MissingDependencyError: a package is not installed.
        DataError: no lines, a sound that cannot be decoded, or a part without lines.
    """
    lines = [(line, text) for line in czech_lines(folder or None) if (text := letters(line.text))]
    levels = sorted({line.level for line, _ in lines})
    order = [level for place, level in enumerate(levels) if place % 10 not in (0, 5)]
    learned = set(order[: max(1, round(share * len(order)))])
    parts = Parts([], [], [])
    for line, text in lines:
        place = levels.index(line.level) % 10
        part = {0: parts.test, 5: parts.validation}.get(place, parts.train)
        if part is parts.train and line.level not in learned:
            continue
        samples, rate = read_sound(line.path, rate=RATE)
        features = standardized(log_mel(samples, rate, bands=BANDS))
        symbols = spell(text)
        if len(features) >= frames_needed(symbols):
            part.append(Spoken(line, features, text, symbols))
    if not all(parts):
        sizes = ", ".join(str(len(part)) for part in parts)
        raise DataError("a part must have lines: ten levels give one to test on", got=sizes)
    return parts


def spell(text: str) -> NDArray[np.int64]:
    """The symbols of a text, from 1 on."""
    return np.array([LETTERS.index(letter) + 1 for letter in text], dtype=np.int64)


def text_of(symbols: Sequence[int]) -> str:
    """The text of symbols, with one space between words and none at its ends."""
    return " ".join("".join(LETTERS[symbol - 1] for symbol in symbols).split())


def frames_needed(symbols: NDArray[np.int64]) -> int:
    """The frames that a path of CTC needs: one for each symbol, and one between two alike."""
    repeats = int((symbols[1:] == symbols[:-1]).sum())
    return FEWER * int(SLACK * (len(symbols) + repeats) + 1)


def varied(spoken: Spoken, chance: np.random.Generator) -> NDArray[np.float32]:
    """The same words faster or slower, from another mouth, and with stripes left out."""
    frames = round(len(spoken.features) * chance.uniform(0.85, 1.15))
    result = stretched(spoken.features, max(frames, frames_needed(spoken.symbols)))
    return masked(warped(result, chance.uniform(0.92, 1.08)), chance)


def batch(
    spoken: Sequence[Spoken], chance: Sequence[np.random.Generator] | None = None
) -> tuple[NDArray[Any], ...]:
    """Features (batch, time, BANDS), lengths, symbols (batch, most), how many of them; varied."""
    rows = [
        varied(each, chance[place]) if chance else each.features
        for place, each in enumerate(spoken)
    ]
    counts = np.array([len(each.symbols) for each in spoken])
    symbols = np.zeros((len(spoken), counts.max()), np.int64)
    for place, each in enumerate(spoken):
        symbols[place, : counts[place]] = each.symbols
    return *padded(rows), symbols, counts


def collated(part: Sequence[Spoken], groups: Sequence[Group]) -> tuple[NDArray[Any], ...]:
    """The batch of some groups, varied as their seeds say."""
    chosen = [(part[place], (*group.seed, place)) for group in groups for place in group.examples]
    chance = [np.random.default_rng(seed) for _, seed in chosen]
    return batch([spoken for spoken, _ in chosen], chance)


def in_order(part: Sequence[Spoken], size: int = 16) -> Iterator[tuple[NDArray[Any], ...]]:
    """Batches of all lines as they were said, the short ones first."""
    ordered = sorted(part, key=lambda each: len(each.features))
    for first in range(0, len(ordered), size):
        yield batch(ordered[first : first + size])


@torch.no_grad()
def log_probabilities(model: nn.Module, spoken: Sequence[Spoken]) -> list[NDArray[np.float32]]:
    """What a model hears in each line, (frames, SYMBOLS), in evaluation mode."""
    training = model.training
    model.eval()
    found = []
    for each in spoken:
        features = torch.from_numpy(each.features)[None]
        logits, _ = model(features, torch.tensor([len(each.features)]))
        found.append(logits[0].float().log_softmax(-1).numpy())
    model.train(training)
    return found


def heard(logits: Tensor, lengths: Tensor) -> list[list[int]]:
    """The symbols of the likeliest path of every line of a batch."""
    from lib.ctc import greedy

    rows = logits.float().cpu().numpy()
    return [greedy(row[:length]) for row, length in zip(rows, lengths.tolist(), strict=True)]
