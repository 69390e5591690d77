"""Histograms of oriented gradients, and a linear support vector machine on them: a baseline."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lib import results
from metronorm.clock import Clock
from metronorm.errors import MetronormError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from metronorm.data.images import LabelledImages

CELL, ANGLES = 4, 9  # pixels of a side of a cell; directions from 0 to 180 degrees
ALPHAS = (1e-6, 1e-5, 1e-4)  # how much the machine may be regularized


def histograms(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Histograms of oriented gradients (Dalal and Triggs, 2005).

    Every pixel votes with the size of its gradient for the two directions next to its own. Four
    cells that touch are a block, which is scaled to length 1, cut at 0.2, and scaled again.

    Args:
        images: (examples, height, width), of whole cells.

    Returns:
        (examples, blocks * 4 * ANGLES).
    """
    parts = range(0, len(images), 2000)  # at a time, as each takes the memory of its votes
    return np.concatenate([_histograms(images[first : first + 2000]) for first in parts])


def _histograms(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    across = np.zeros(images.shape, np.float32)
    down = np.zeros(images.shape, np.float32)
    values = images.astype(np.float32)
    across[:, :, 1:-1] = values[:, :, 2:] - values[:, :, :-2]
    down[:, 1:-1] = values[:, 2:] - values[:, :-2]
    size = np.hypot(across, down)
    place = np.arctan2(down, across) / np.pi % 1.0 * ANGLES  # 0 to ANGLES; the ends meet
    below = np.floor(place)
    votes = np.zeros((ANGLES, *images.shape), np.float32)
    for step, weight in ((0, 1 - (place - below)), (1, place - below)):
        angle = (below.astype(np.int64) + step) % ANGLES
        for index in range(ANGLES):
            votes[index] += np.where(angle == index, size * weight, 0)
    count, height, width = images.shape
    cells = votes.reshape(ANGLES, count, height // CELL, CELL, width // CELL, CELL).sum((3, 5))
    cells = cells.transpose(1, 2, 3, 0)  # (examples, cells down, cells across, angles)
    blocks = np.concatenate(
        [cells[:, :-1, :-1], cells[:, :-1, 1:], cells[:, 1:, :-1], cells[:, 1:, 1:]], axis=3
    )
    blocks = np.minimum(_scaled(blocks), 0.2)
    return _scaled(blocks).reshape(count, -1)


def _scaled(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    return blocks / np.sqrt(np.square(blocks).sum(-1, keepdims=True) + 1e-5)


def accuracy_of_svm(data: LabelledImages, *, held_out: int) -> float:
    """The share of right answers to the test set of a linear SVM on histograms of gradients.

    It is fitted by stochastic gradients, whose mean over all steps is taken. How much it is
    regularized is chosen by the last `held_out` training images, which it does not learn from.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import SGDClassifier
    except ImportError:
        raise MissingDependencyError(
            "the baseline needs scikit-learn", got="none", fix="pip install scikit-learn"
        ) from None
    features, labels = histograms(data.images), data.labels
    fitted = []
    for alpha in ALPHAS:
        machine = SGDClassifier(alpha=alpha, average=True, max_iter=10, tol=None, random_state=0)
        machine.fit(features[:-held_out], labels[:-held_out])
        fitted.append((machine.score(features[-held_out:], labels[-held_out:]), -alpha, machine))
    best = max(fitted)[2]
    return float(best.score(histograms(data.test_images), data.test_labels))


def baseline(recipe: str, read: Callable[[], LabelledImages], *, held_out: int) -> int:
    """Fit the machine as a run of one tick; with `--publish` among the arguments, add its row."""
    try:
        data = read()
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            with Clock(run) as clock:
                for _ in clock.ticks(range(1)):
                    accuracy = accuracy_of_svm(data, held_out=held_out)
                    clock.log(images=len(data.images), test_accuracy=accuracy)
            if "--publish" in sys.argv:
                results.add(recipe, run, {"model": "svm", "accuracy": accuracy})
    except MetronormError as error:
        print(f"{recipe}: {error}", file=sys.stderr)
        return 2
    print(f"a linear SVM on histograms of gradients: {accuracy:.4f} of the test images")
    return 0
