"""Show examples as the model will see them: what is trained on stands out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from metronorm.finetune.examples import Example
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

    from metronorm.finetune.examples import Labelled

_STYLES = {0: "dim", 1: "bold green", 2: "yellow"}  # read only, trained, trained at a lower weight
_MOST_CHARACTERS = 2000


def show_samples(
    examples: Sequence[Example | Labelled],
    tokenizer: PreTrainedTokenizerBase,
    *,
    labels: Sequence[str] = (),
    count: int = 3,
) -> Iterator[Text]:
    """A few examples for a terminal, evenly from all.

    Tokens that are trained on are bold, those at a lower weight yellow, the others dim. What
    controls a terminal is escaped.

    Args:
        examples: to write or to classify.
        tokenizer: of the model.
        labels: the names of the classes.
        count: how many to show.

    Yields:
        The text of an example, after a line that says where it is from.
    """
    from rich.text import Text

    for number in np.unique(np.linspace(0, len(examples) - 1, count).astype(int)).tolist():
        example = examples[number]
        size = f"{len(example.ids):,} tokens"
        shown = Text(f"{printable(example.source)}, line {example.line}: {size}", "underline")
        if isinstance(example, Example):
            kinds = np.where(example.weights >= 1, 1, np.where(example.weights > 0, 2, 0))
        else:
            kinds = np.zeros(len(example.ids), dtype=np.int64)
            name = labels[example.label] if example.label < len(labels) else str(example.label)
            shown.append(f", {printable(name)}")
        shown.append("\n")
        bounds = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
        for start, stop in pairwise(bounds):
            text = str(tokenizer.decode(example.ids[start:stop].tolist()))
            text = printable(text, multiline=True)
            if len(text) > _MOST_CHARACTERS:
                text = f"{text[: _MOST_CHARACTERS // 2]} … {text[-_MOST_CHARACTERS // 2 :]}"
            shown.append(text, _STYLES[int(kinds[start])])
        yield shown
