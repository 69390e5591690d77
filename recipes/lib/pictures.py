"""What recipes of pictures need: an order with augmentation, and pictures of what was confused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metronorm.data import Shuffled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from metronorm.train import Moment

SHOWN = 40  # images that were told wrong


class Varied:
    """An endless order of images and labels, each image a little different in every epoch.

    An image is mirrored in every other epoch, so two epochs in a row show both of its sides
    (Jordan, 2024, arXiv:2404.00498), and shifted by some pixels, with 0 around it.

    Args:
        images: uint8 (examples, height, width).
        labels: int64 (examples,).
        seed: of the order and of the changes.
        shift: pixels at most, in each direction.

    Attributes:
        examples_per_epoch: the number of images.
        data_id: of the images and labels.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], *, seed: int, shift: int
    ) -> None:
        first = np.random.default_rng(seed % 2**64).random(len(images)) < 0.5  # mirrored at first
        self._order = Shuffled(images, labels, first, seed=seed)
        self._seed, self._shift = seed, shift
        self.examples_per_epoch = len(images)

    @property
    def data_id(self) -> str | None:
        """A hash of images, labels and which are mirrored first."""
        return self._order.data_id

    def take(self, first: int, size: int) -> Any:
        """The batch of examples `first` to `first + size` of the order."""
        images, labels, mirrored = self._order.take(first, size)
        mirrored = mirrored ^ ((first + np.arange(size)) // self.examples_per_epoch % 2 == 1)
        images[mirrored] = images[mirrored, :, ::-1]
        if self._shift:
            chance = np.random.default_rng((self._seed % 2**64, first))
            images = shifted(
                images, chance.integers(0, 2 * self._shift + 1, (2, size)), self._shift
            )
        return images, labels


def shifted(images: NDArray[np.uint8], places: NDArray[np.int64], most: int) -> NDArray[np.uint8]:
    """Images moved up and left, with 0 where nothing was.

    Args:
        images: (batch, height, width).
        places: (2, batch), pixels up and left, plus `most`.
        most: pixels.
    """
    height, width = images.shape[1:]
    framed = np.pad(images, ((0, 0), (most, most), (most, most)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (height, width), axis=(1, 2))
    return windows[np.arange(len(images)), places[0], places[1]]


def confusions(
    labels: NDArray[np.int64], answers: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    """How often each class was taken for each: (class, answer), and as a table for the board."""
    count = len(names)
    matrix = np.bincount(labels * count + answers, minlength=count**2).reshape(count, count)
    rows = [
        {"class": name} | dict(zip(names, map(int, row), strict=True))
        for name, row in zip(names, matrix, strict=True)
    ]
    return matrix, rows


def as_picture(matrix: NDArray[np.int64], *, scale: int = 24) -> NDArray[np.float64]:
    """Shares of each class, from 0 to 1, as a grey picture; by their root, so that few are seen."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    return np.sqrt(shares).repeat(scale, 0).repeat(scale, 1)


def sheet(images: NDArray[np.uint8], *, columns: int = 10, scale: int = 2) -> NDArray[np.uint8]:
    """Images beside and below each other, with a line of 0 between them."""
    rows = -(-len(images) // columns)
    framed = np.pad(images, ((0, rows * columns - len(images)), (0, 1), (0, 1)))
    height, width = framed.shape[1:]
    placed = framed.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    whole = placed.reshape(rows * height, columns * width)
    return whole.repeat(scale, 0).repeat(scale, 1)


@torch.no_grad()
def answered(
    model: nn.Module, images: NDArray[np.uint8], chances: Callable[[nn.Module, Tensor], Tensor]
) -> NDArray[np.float32]:
    """Chances of each class, (examples, classes), by a model that is not training meanwhile.

    Args:
        model: it is training before and afterwards.
        images: (examples, height, width).
        chances: of each class, (batch, classes), by the model and a batch of images.
    """
    device = next(model.parameters()).device
    model.eval()
    parts = [torch.tensor(images[first : first + 500]) for first in range(0, len(images), 500)]
    found = torch.cat([chances(model, part.to(device)) for part in parts]).cpu().numpy()
    model.train()
    return found


def show(
    moment: Moment,
    seen: tuple[NDArray[np.uint8], NDArray[np.int64]],
    unseen: tuple[NDArray[np.uint8], NDArray[np.int64]],
    chances: Callable[[nn.Module, Tensor], Tensor],
    names: Sequence[str],
) -> None:
    """Put on the board what was taken for what, and the surest of the wrong answers.

    The share of right answers on images that were learned from is logged as `training_accuracy`.

    Args:
        moment: of a hook.
        seen: images that were learned from, (examples, height, width), and labels, (examples,).
        unseen: the same of others, which are shown.
        chances: of each class, (batch, classes), by the model and a batch of images.
        names: of the classes.
    """
    clock, (images, labels) = moment.clock, unseen
    known = answered(moment.model, seen[0], chances).argmax(1) == seen[1]
    clock.log(training_accuracy=known.mean())
    found = answered(moment.model, images, chances)
    answers, sureness = found.argmax(1), found.max(1)
    matrix, table = confusions(labels, answers, names)
    clock.sample("confusions", table)
    clock.sample("confusions", as_picture(matrix))
    wrong = np.flatnonzero(answers != labels)
    wrong = wrong[np.argsort(-sureness[wrong], kind="stable")][:SHOWN]
    if len(wrong):
        clock.sample("told wrong", sheet(images[wrong]))
        rows = [
            {"class": names[labels[i]], "told as": names[answers[i]], "surely": sureness[i].item()}
            for i in wrong
        ]
        clock.sample("told wrong", rows)
