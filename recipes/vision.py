"""Tell clothes apart on pictures of 28 x 28 pixels, by a ConvNeXt or a vision transformer.

    pip install 'metronorm[train]'; apt-get install dataset-fashion-mnist
    python recipes/vision.py                 or: metronorm train --recipe recipes/vision.py
    python recipes/vision.py --model vit
    python recipes/vision.py --norm batch --ticks 1500
    python recipes/vision.py baseline        histograms of gradients and a linear SVM

Of 60,000 images, 5,000 are held out to choose by; the 10,000 of the test set are read once, at the
end. `flipped_accuracy` is of each image with its mirror image. Read from top to bottom.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from lib import results
from lib.gradients import baseline
from lib.pictures import Varied, show
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from metronorm.data import InOrder, fashion_mnist
from metronorm.models import ConvNeXt, ViT
from metronorm.tasks.observe import observe
from metronorm.train import Hook, OptimizerConfig, Task, TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["T-shirt", "trousers", "pullover", "dress", "coat"]
NAMES += ["sandal", "shirt", "sneaker", "bag", "boot"]
HELD_OUT = 5000

OPTIMIZER = OptimizerConfig(
    name="ticks_muon", learning_rate=3e-3, schedule="wsd", decay=0.7, final=0.0, clip=0.0
)


@dataclass(frozen=True)
class Config(TrainConfig):
    """The options of every training, with defaults for this one, and its own."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OPTIMIZER, metadata={"on_resume": "branch"}
    )
    ticks: int = 6000
    batch_size: int = 128
    evaluate_every: int = 500
    checkpoint_every: int = 500
    average_last: float = 0.1
    best: str = "flipped_accuracy"
    best_mode: Literal["min", "max"] = "max"
    model: Literal["convnext", "vit"] = "convnext"
    """What is trained."""
    norm: Literal["layer", "batch", "none"] = "layer"
    """Of the ConvNeXt: LayerNorm2d, torch's BatchNorm2d, or none."""
    smoothing: float = 0.1
    """Of the labels: this share of the certainty is spread over all classes."""
    shift: int = 2
    """Pixels by which an image is moved at most, in each direction."""
    folder: str = ""
    """Folder of the four idx files. Empty: that of Debian's package."""


def task(config: Config) -> Task:
    """55,000 images to learn from, 5,000 to choose by, 10,000 to read once at the end."""
    data = fashion_mnist(config.folder or None)
    labels, test_labels = (each.astype(np.int64) for each in (data.labels, data.test_labels))
    held_out = min(HELD_OUT, len(labels) // 12)
    parts = slice(-held_out, None), slice(held_out)  # as many of either
    unseen, seen = ((data.images[part], labels[part]) for part in parts)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits, smoothing = model(scaled(batch[0])).float(), config.smoothing
        return F.cross_entropy(logits, batch[1], reduction="sum", label_smoothing=smoothing)

    return Task(
        model=lambda: net(config),
        batches=Varied(
            data.images[:-held_out], labels[:-held_out], seed=config.seed, shift=config.shift
        ),
        loss=loss,
        count=lambda batch: len(batch[1]),
        measure=measure,
        validation=lambda: InOrder(*unseen, batch_size=500),
        test=lambda: InOrder(data.test_images, test_labels, batch_size=500),
        hooks=[
            observe(100),
            Hook(2**62, lambda moment: show(moment, seen, unseen, chances, NAMES), at_end=True),
        ],
        unit="images",
    )


def net(config: Config) -> nn.Module:
    """The model: less than a million parameters, about 20 million products for an image."""
    if config.model == "vit":
        return ViT(len(NAMES), width=96, layers=5, heads=3)
    shape: Any = {"widths": (48, 96), "depths": (2, 2), "kernel": 3, "expansion": 1, "fused": True}
    return ConvNeXt(len(NAMES), **shape, norm=config.norm)


def scaled(images: Tensor) -> Tensor:
    """From bytes, (batch, 28, 28), to one channel of mean 0 and deviation 1."""
    return (images[:, None].float() / 255 - 0.286) / 0.353


def chances(model: nn.Module, images: Tensor) -> Tensor:
    """Probabilities of the classes, (batch, 10): the mean of an image's and its mirror image's."""
    both = [model(scaled(each)).float().softmax(1) for each in (images, images.flip(2))]
    return (both[0] + both[1]) / 2


def measure(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """The cross entropy and the right answers, summed over the images."""
    images, labels = batch
    logits = model(scaled(images)).float()
    both = logits.softmax(1) + model(scaled(images.flip(2))).float().softmax(1)
    return {
        "loss": F.cross_entropy(logits, labels, reduction="sum"),
        "accuracy": (logits.argmax(1) == labels).sum(),
        "flipped_accuracy": (both.argmax(1) == labels).sum(),
    }


def beside(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What a row says beside what was measured: the size of the net."""
    model = net(Config(model=config["model"], norm=config["norm"]))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 28, 28))
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "megaflops": counter.get_total_flops() / 1e6,  # of a forward pass of one image
    }


if __name__ == "__main__":
    if "baseline" in sys.argv[1:2]:
        sys.exit(baseline("vision", fashion_mnist, held_out=HELD_OUT))
    sys.exit(results.train(__file__, ("model", "norm", "seed"), beside))
