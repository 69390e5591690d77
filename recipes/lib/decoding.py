"""What a trained recognizer hears, with and without a language model of letters."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from lib import ctc, error_rates
from lib.dictation import SYMBOLS, log_probabilities, spell, text_of
from lib.ngram import NGram
from metronorm.checkpoints.folder import newest_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from lib.dictation import Parts, Spoken

ORDER = 6
BEAM = 12
WEIGHTS, BONUSES = (0.3, 0.5, 0.7), (0.5, 1.0, 1.5)


class LetterModel:
    """How likely each symbol is after others: an n-gram model, asked again and again.

    Args:
        texts: to learn from, in letters alone.
        order: symbols of the longest gram.
    """

    def __init__(self, texts: Iterable[str], order: int = ORDER) -> None:
        spelled = [spell(text).tolist() for text in texts]
        self._model = NGram(spelled, order=order, alphabet=range(1, SYMBOLS))
        self._places = {symbol: place for place, symbol in enumerate(self._model.symbols)}
        self._known: dict[tuple[tuple[int, ...], bool], list[float]] = {}

    def __call__(self, prefix: tuple[int, ...], symbol: int) -> float:
        """The natural logarithm of a symbol's probability after all that came before it."""
        start = len(prefix) < self._model.order - 1
        context = prefix if start else prefix[len(prefix) - self._model.order + 1 :]
        row = self._known.get((context, start))
        if row is None:
            row = np.log(self._model.distribution(context, start=start)).tolist()
            self._known[context, start] = row
        return row[self._places[symbol]]


def rates(
    run: Path, model: nn.Module, parts: Parts, average: str | None = None
) -> dict[str, float]:
    """Rates on the test levels, by the likeliest path and by a beam with a language model.

    Weight and bonus are the best of a few on the levels to watch. Every rate has the ends of its
    95 % beside it, of a bootstrap over lines.

    Args:
        run: that has ended.
        model: which is given its weights.
        parts: what it was trained on, watched and tested.
        average: which average of the weights it is given; None: the weights.
    """
    newest_checkpoint(run / "checkpoints").load_model(model, average=average)
    language = LetterModel(spoken.text for spoken in parts.train)
    watched = log_probabilities(model, parts.validation)

    def wrong(weight: float, bonus: float) -> int:
        got = [beam(scores, language, weight, bonus, width=6) for scores in watched]
        return sum(pair[0] for pair in pairs(parts.validation, got)["cer"])

    weight, bonus = min(itertools.product(WEIGHTS, BONUSES), key=lambda each: wrong(*each))
    scores = log_probabilities(model, parts.test)
    plain = [text_of(ctc.greedy(each)) for each in scores]
    helped = [beam(each, language, weight, bonus) for each in scores]
    found = {"ngram_weight": weight, "ngram_bonus": bonus, "test_lines": len(parts.test)}
    for kind, got in (("greedy", plain), ("ngram", helped)):
        for name, lines in pairs(parts.test, got).items():
            value, low, high = error_rates.rate(lines)
            found |= {f"{kind}_{name}": value}
            found |= {f"{kind}_{name}_low": low, f"{kind}_{name}_high": high}
    for spoken, one, other in list(zip(parts.test, plain, helped, strict=True))[::20]:
        print(f"said    {spoken.text}\ngreedy  {one}\nn-gram  {other}\n")
    return found


def beam(
    scores: NDArray[np.floating],
    language: LetterModel,
    weight: float,
    bonus: float,
    *,
    width: int = BEAM,
) -> str:
    """The text that is likeliest with the language model."""
    found, _ = ctc.prefix_beam(scores, width=width, score=language, weight=weight, bonus=bonus)
    return text_of(found)


def pairs(spoken: Sequence[Spoken], got: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    """Edits and lengths of every line, by name of the rate."""
    counted = [error_rates.counts(each.text, text) for each, text in zip(spoken, got, strict=True)]
    return {name: [each[name] for each in counted] for name in counted[0]}
