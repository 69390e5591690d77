"""From data on disk to examples to train and evaluate on, with a ledger of all that came in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from metronorm.data.progress import waiting
from metronorm.errors import ConfigError, DataError
from metronorm.finetune.collecting import Collector
from metronorm.finetune.data_config import LEAST_TOKENS, TaskName
from metronorm.finetune.examples import Examples, LabelledExamples
from metronorm.finetune.ledger import Ledger, Side
from metronorm.finetune.splitting import held_out
from metronorm.text import printable, shortened
from metronorm.train.config import check_choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from metronorm.finetune.collected import Collected
    from metronorm.finetune.data_config import DataConfig


@dataclass(frozen=True)
class Prepared:
    """Examples, and where they came from.

    Attributes:
        train: `Examples`, or `LabelledExamples` to classify.
        validation: the same; None: there are none.
        ledger: where every row and token went.
        labels: the names of the classes by their numbers; empty if there are none.
        class_weights: float32 (classes,), the weight of the loss of each; None: all are 1.
        ends: the tokens that answers end with, the most frequent first: a model that writes one has
            finished.
    """

    train: Any
    validation: Any
    ledger: Ledger
    labels: tuple[str, ...] = ()
    class_weights: NDArray[np.float32] | None = None
    ends: tuple[int, ...] = ()


def prepare(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: TaskName,
    context: int,
    labels: Sequence[str] | None = None,
) -> Prepared:
    """Read data, and make examples of it.

    Args:
        data: which, and how.
        tokenizer: of the model.
        task: chat (answers to learn, rendered with the tokenizer's chat template), text (texts to
            learn, perhaps after a prompt) or classify.
        context: most tokens that the model can read.
        labels: the names of a model's classes by their numbers; None: those of the data, sorted.

    Raises:
        ConfigError: a limit of tokens beyond the context.
        DataError: data that cannot be read or lacks the columns, or of which no row can be used; a
            label that training does not have; a tokenizer that cannot do the task.
    """
    check_choice("task", task, get_args(TaskName))
    if max(data.max_tokens, LEAST_TOKENS) > context:
        raise ConfigError(
            f"max_tokens must be at most the model's context, {context:,}, and that at least "
            f"{LEAST_TOKENS}",
            got=repr(data.max_tokens),
        )
    ledger = Ledger()
    collector = Collector(data, tokenizer, task, data.max_tokens or context, ledger)
    with waiting("preparing the data"):
        parts = _collect(collector, data, task)
    for name, part in parts.items():
        ledger.sides[name] = _side(part, task, data.prompt_weight)
    assert ledger.adds_up(), ledger.summary()
    train, validation = parts["training"], parts.get("validation")
    ends = tuple(number for number, _ in collector.encoder.ends.most_common())
    if task == "classify":
        return _to_classify(
            train, validation, ledger, labels, balanced=data.class_weights != "none"
        )
    return Prepared(
        _to_write(train, data.prompt_weight),
        _to_write(validation, data.prompt_weight) if validation else None,
        ledger,
        ends=ends,
    )


def _collect(collector: Collector, data: DataConfig, task: TaskName) -> dict[str, Collected]:
    """The examples of the sets."""
    if data.validation_data:
        validation = collector.collect(data.validation_data, frozenset())
        train = collector.collect(data.data, frozenset(validation.keys.tolist()))
        return {"training": train, "validation": validation}
    everything = collector.collect(data.data, frozenset())
    out = held_out(
        everything.keys,
        data.validation,
        data.split_seed,
        everything.label if task == "classify" else None,
    )
    if task == "text" and everything.begins.sum() == 1:  # of a text that is alone, its end
        size = len(everything.texts)
        out[size - min(size - 1, math.ceil(data.validation * size)) :] = True
    if not out.any():
        return {"training": everything}
    return {"training": everything.select(~out), "validation": everything.select(out)}


def _side(part: Collected, task: TaskName, prompt_weight: float) -> Side:
    """What a set has, for the ledger."""
    total, cut = len(part.texts.ids), int(part.cut.sum())
    if task == "classify":
        tokens = {"read": total}
    else:
        answers, first = int(part.counts.sum()), len(part.texts)
        prompts = f"prompts, weight {prompt_weight:g}" if prompt_weight else "masked: prompts"
        tokens = {
            "trained": answers,
            prompts: total - answers - first,
            "masked: first tokens": first,
        }
    tokens["cut"] = cut
    return Side(
        rows=int(part.begins.sum()),
        examples=len(part.texts),
        rows_cut=int((part.cut > 0).sum()),
        tokens={kind: number for kind, number in tokens.items() if number},
    )


def _to_write(part: Collected, prompt_weight: float) -> Examples:
    weights = np.where(part.counts, np.float32(1), np.float32(prompt_weight))
    weights[part.texts.ends - part.texts.lengths] = 0  # nothing comes before a first token
    return Examples(part.texts, weights)


def _to_classify(
    train: Collected,
    validation: Collected | None,
    ledger: Ledger,
    labels: Sequence[str] | None,
    *,
    balanced: bool,
) -> Prepared:
    there = _names(train)
    classes = tuple(labels) if labels is not None else _sorted(there)
    if unknown := there - set(classes):
        raise _unseen("the model must have the labels of the data", unknown, classes)
    if len(classes) < 2:
        raise DataError(
            "a classifier must have two labels at least",
            got=f"only {printable(shortened(classes[0], 40))!r}",
        )
    if validation and (unknown := _names(validation) - set(classes)):
        raise _unseen(
            "the labels of the validation data must be among those of training", unknown, classes
        )
    made = _labelled(train, classes)
    weights = _balanced(made.labels, len(classes)) if balanced else None
    held = _labelled(validation, classes) if validation else None
    return Prepared(made, held, ledger, classes, weights)


def _labelled(part: Collected, classes: Sequence[str]) -> LabelledExamples:
    number = {name: place for place, name in enumerate(classes)}
    numbers = np.array([number.get(name, -1) for name in part.labels], dtype=np.int64)
    return LabelledExamples(part.texts, numbers[part.label])


def _balanced(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Weights with which every class that has rows weighs the same, and a row 1 on average."""
    counts = np.bincount(labels, minlength=classes)
    equal = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, equal, 0).astype(np.float32)


def _names(part: Collected) -> set[str]:
    return {part.labels[number] for number in np.unique(part.label).tolist()}


def _sorted(names: set[str]) -> tuple[str, ...]:
    """The names in order; whole numbers by their value, so that label 10 is number 10."""
    if all(re.fullmatch(r"-?\d{1,18}", name, re.ASCII) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _unseen(must: str, unknown: set[str], classes: Sequence[str]) -> DataError:
    shown, known = (
        ", ".join(printable(shortened(name, 40)) for name in names[:20])
        + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        for names in (sorted(unknown), list(classes))
    )
    return DataError(must, got=shown, fix=f"labels among {known}")
