"""A small convolutional net on Fashion-MNIST: the shape that every recipe has.

    metronorm train --recipe recipes/own_model.py
    python recipes/own_model.py --ticks 200

The images are those of Debian's package `dataset-fashion-mnist` (`make data` installs it).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.data import InOrder, Shuffled, fashion_mnist
from metronorm.norm import LayerNorm2d
from metronorm.train import OptimizerConfig, Task, TrainConfig


@dataclass(frozen=True)
class Config(TrainConfig):
    """A net of three blocks."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="ticks_muon", learning_rate=3e-3, schedule="wsd", decay=0.5, final=0.0, clip=0.0
        ),
        metadata={"on_resume": "branch"},
    )
    ticks: int = 1500
    batch_size: int = 128
    evaluate_every: int = 250
    best: str = "accuracy"
    best_mode: Any = "max"
    width: int = 32
    """Channels of the first block; each of the next has twice as many."""
    folder: str = ""
    """Folder of the four idx files. Nothing: where Debian's package is installed."""


def task(config: Config) -> Task:
    """55,000 images to learn from, 5,000 to choose on, 10,000 to read once at the end."""
    data = fashion_mnist(config.folder or None)
    images, labels = scaled(data.images), data.labels.astype(np.int64)
    test = scaled(data.test_images), data.test_labels.astype(np.int64)
    return Task(
        model=lambda: net(config.width),
        batches=Shuffled(images[:-5000], labels[:-5000], seed=config.seed),
        loss=loss,
        count=lambda batch: len(batch[1]),
        measure=measure,
        validation=lambda: InOrder(images[-5000:], labels[-5000:], batch_size=500),
        test=lambda: InOrder(*test, batch_size=500),
        unit="images",
    )


def net(width: int) -> nn.Module:
    """Patches of 2 x 2 pixels, three blocks, the mean over the image, ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, width, 2, stride=2),  # (batch, width, 14, 14)
        *block(width, 2 * width),
        nn.MaxPool2d(2),  # (batch, 2 width, 7, 7)
        *block(2 * width, 4 * width),
        *block(4 * width, 4 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 4 * width),
        nn.GELU(),
        nn.Linear(4 * width, 10),
    )


def block(width: int, out: int) -> list[nn.Module]:
    """Convolution, normalization over the channels, GELU."""
    return [nn.Conv2d(width, out, 3, padding=1), LayerNorm2d(out), nn.GELU()]


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross entropy, summed over the images."""
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="sum")


def measure(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Loss and number of right answers, summed over the images."""
    images, labels = batch
    logits = model(images)
    return {
        "loss": F.cross_entropy(logits, labels, reduction="sum"),
        "accuracy": (logits.argmax(1) == labels).sum(),
    }


def scaled(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bytes (examples, 28, 28) to float32 (examples, 1, 28, 28) of mean 0 and deviation 1."""
    return ((images[:, None] / 255 - 0.286) / 0.353).astype(np.float32)


if __name__ == "__main__":
    from metronorm.cli import main

    sys.exit(main(["train", "--recipe", str(Path(__file__)), *sys.argv[1:]]))
