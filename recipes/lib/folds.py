"""Articles in five folds, the classifier that they are judged beside, and what was mistaken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from metronorm.data.articles import CLASSES, bbc_news, without_copies
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

FOLDS = 5


class Part(NamedTuple):
    """Texts, and the numbers of their classes, int64 (texts,)."""

    texts: list[str]
    labels: Any


class Fold(NamedTuple):
    """Parts without a text in common: to learn from, to look at on the way, to be judged by."""

    train: Part
    validation: Part
    test: Part


def fold_of(number: int, *, per_class: int = 0, folder: str | None = None) -> Fold:
    """One of five folds of BBC News without copies; prints how many there were.

    Each article is in the test set of one fold. Of the others, one in ten is for validation.

    Args:
        number: of the fold, from 0 on.
        per_class: articles of each class to learn from; 0: all.
        folder: as for `bbc_news`.

    Raises:
        ConfigError: no such fold; a class has fewer articles.
        MissingDependencyError, DataError: as `bbc_news`.
    """
    if not 0 <= number < FOLDS:
        raise ConfigError(f"fold must be from 0 to {FOLDS - 1}", got=repr(number))
    every = bbc_news(folder)
    articles = without_copies(every)
    print(
        f"{len(every.texts):,} articles, {len(every.texts) - len(articles.texts)} copies left out"
    )
    labels = np.array([CLASSES.index(label) for label in articles.labels])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels)
    learned, test = [*folds][number]
    inner = StratifiedShuffleSplit(1, test_size=0.1, random_state=0)
    train, validation = (learned[part] for part in next(inner.split(learned, labels[learned])))
    if per_class:
        fewest = np.bincount(labels[train]).min()
        if not 0 < per_class <= fewest:
            raise ConfigError(
                f"per_class must be from 1 to {fewest}, or 0 for all", got=repr(per_class)
            )
        classes = range(len(CLASSES))
        train = np.concatenate([train[labels[train] == one][:per_class] for one in classes])
    return Fold(
        *(Part([articles.texts[at] for at in part], labels[part])
          for part in (train, validation, test))
    )  # fmt: skip


def svm_accuracy(fold: Fold) -> float:
    """The share of test texts that TF-IDF and a linear SVM class rightly."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, stop_words="english"), LinearSVC())
    model.fit(fold.train.texts, fold.train.labels)
    return float(model.score(fold.test.texts, fold.test.labels))


@torch.no_grad()
def mistakes(model: nn.Module, batches: Iterable[Any], part: Part) -> list[dict[str, str]]:
    """The texts that a model takes for another class, as rows of a table.

    Args:
        model: from words and lengths to logits; it is in evaluation mode meanwhile.
        batches: of words, lengths and labels, in the order of the part.
        part: the texts.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    answers = [
        model(*(torch.as_tensor(each).to(device) for each in batch[:2])).argmax(1)
        for batch in batches
    ]
    model.train(was_training)
    return [
        {"is": CLASSES[label], "taken for": CLASSES[answer], "text": text[:200]}
        for text, label, answer in zip(
            part.texts, part.labels, torch.cat(answers).tolist(), strict=True
        )
        if label != answer
    ]
