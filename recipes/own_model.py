"""Train a small convolutional net on Fashion-MNIST: the shape that every recipe has.

    apt-get install dataset-fashion-mnist
    python recipes/own_model.py                 or: metronorm train --recipe recipes/own_model.py
    python recipes/own_model.py --ticks 400 --run runs/short

Read from top to bottom: what can be chosen (`Config`), what is trained (`task`), then its parts.

6,000 ticks reach an accuracy of 0.932 on the test images (`python bench/own_model.py`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from metronorm.data import InOrder, Shuffled
from metronorm.data.images import CLASSES, fashion_mnist
from metronorm.norm import LayerNorm2d
from metronorm.train import OptimizerConfig, Task, TrainConfig

OPTIMIZER = OptimizerConfig(
    name="ticks_muon", learning_rate=3e-3, schedule="wsd", decay=0.6, final=0.0, clip=0.0
)


@dataclass(frozen=True)
class Config(TrainConfig):
    """The options of every training, with defaults for this one, and two more."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OPTIMIZER, metadata={"on_resume": "branch"}
    )
    ticks: int = 6000
    batch_size: int = 128
    evaluate_every: int = 500
    checkpoint_every: int = 500
    best: str = "accuracy"
    best_mode: Literal["min", "max"] = "max"
    width: int = 32
    """Channels of the first layer; the blocks have two and four times as many."""
    folder: str = ""
    """Folder of the four idx files. Empty: that of Debian's package."""


def task(config: Config) -> Task:
    """55,000 images to learn from, 5,000 to find the best by, 10,000 to read once at the end."""
    data = fashion_mnist(config.folder or None)
    labels, test_labels = (each.astype(np.int64) for each in (data.labels, data.test_labels))
    held_out = len(labels) // 12
    return Task(
        model=lambda: net(config.width),
        batches=Shuffled(
            data.images[:-held_out], labels[:-held_out], seed=config.seed, transform=mirrored
        ),
        loss=loss,
        count=lambda batch: len(batch[1]),
        measure=measure,
        validation=lambda: InOrder(data.images[-held_out:], labels[-held_out:], batch_size=500),
        test=lambda: InOrder(data.test_images, test_labels, batch_size=500),
        unit="images",
    )


def mirrored(batch: Any, chance: np.random.Generator) -> Any:
    """Half of the images, with left and right exchanged."""
    images, labels = batch  # uint8 (batch, 28, 28), int64 (batch,)
    swap = chance.random(len(images)) < 0.5
    images[swap] = images[swap, :, ::-1]
    return images, labels


def net(width: int) -> nn.Module:
    """From bytes, (batch, 28, 28), to logits, (batch, 10)."""
    return nn.Sequential(
        Scale(),
        nn.Conv2d(1, width, 2, stride=2),  # (batch, width, 14, 14)
        *block(width, 2 * width),
        nn.MaxPool2d(2),  # (batch, 2 width, 7, 7)
        *block(2 * width, 4 * width),
        *block(4 * width, 4 * width),
        nn.MaxPool2d(2),  # (batch, 4 width, 3, 3)
        nn.Flatten(),
        nn.Linear(36 * width, 4 * width),
        nn.GELU(),
        nn.Linear(4 * width, CLASSES),
    )


class Scale(nn.Module):
    """From bytes to one channel of mean 0 and deviation 1."""

    def forward(self, images: Tensor) -> Tensor:
        """Scale images, (batch, height, width)."""
        return (images[:, None].float() / 255 - 0.286) / 0.353


def block(width: int, out: int) -> list[nn.Module]:
    """A convolution of 3 x 3 pixels, normalization over the channels of each pixel, GELU."""
    return [nn.Conv2d(width, out, 3, padding=1), LayerNorm2d(out), nn.GELU()]


def loss(model: nn.Module, batch: Any) -> Tensor:
    """The cross entropy, summed over the images."""
    images, labels = batch
    return F.cross_entropy(model(images), labels, reduction="sum")


def measure(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """The cross entropy and the right answers, summed over the images."""
    images, labels = batch
    logits = model(images)
    return {
        "loss": F.cross_entropy(logits, labels, reduction="sum"),
        "accuracy": (logits.argmax(1) == labels).sum(),
    }


if __name__ == "__main__":
    from metronorm.cli import main

    sys.exit(main(["train", "--recipe", __file__, *sys.argv[1:]]))
