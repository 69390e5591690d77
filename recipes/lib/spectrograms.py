"""Pictures of sound: a spectrogram, a line over it, and what was heard below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COLOURS = np.array(  # from silence to the loudest
    [[8, 8, 24], [60, 16, 90], [150, 40, 110], [230, 90, 70], [252, 180, 90], [252, 250, 200]]
)
LINE = np.array([120, 230, 255], np.uint8)
GAP = 4  # pixels


def spectrogram(bands: NDArray[np.floating], *, scale: int = 4) -> NDArray[np.uint8]:
    """A picture, (bands * scale, time * scale, 3), with low frequencies at the bottom.

    Args:
        bands: (time, bands), such as `log_mel` or probabilities; the lowest value is dark.
        scale: pixels of a value.
    """
    low, high = float(bands.min()), float(bands.max())
    shade = (bands.T[::-1] - low) / max(high - low, 1e-9) * (len(COLOURS) - 1)
    rows = [np.interp(shade, np.arange(len(COLOURS)), channel) for channel in COLOURS.T]
    picture = np.stack(rows, axis=-1).astype(np.uint8)
    return picture.repeat(scale, axis=0).repeat(scale, axis=1)


def with_line(
    picture: NDArray[np.uint8], heights: NDArray[np.floating], shown: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """The picture with a line over it.

    Args:
        picture: (height, width, 3).
        heights: (time,), from 0 at the bottom to 1 at the top.
        shown: (time,), where there is one.
    """
    result = picture.copy()
    height, width = picture.shape[:2]
    places = (np.arange(width) * len(heights)) // width
    tops = np.round((1 - np.clip(heights, 0, 1)) * (height - 2)).astype(np.int64)
    for column in np.flatnonzero(shown[places]).tolist():
        top = int(tops[places[column]])
        result[top : top + 2, column] = LINE
    return result


def with_alignment(
    bands: NDArray[np.floating], probabilities: NDArray[np.floating], spikes: Sequence[int]
) -> NDArray[np.uint8]:
    """A spectrogram above what was heard in each frame, with a mark where each symbol begins.

    Args:
        bands: (time, bands).
        probabilities: (fewer frames, symbols), of a model with so many frames less.
        spikes: frames of the model at which a symbol begins.
    """
    above = spectrogram(bands, scale=2)
    below = spectrogram(np.sqrt(probabilities), scale=2)
    width = above.shape[1]
    below = below[:, (np.arange(width) * below.shape[1]) // width]
    for spike in spikes:
        column = min((spike * width) // len(probabilities), width - 1)
        above[-8:, column : column + 2] = LINE
    return np.concatenate([above, np.zeros((GAP, width, 3), np.uint8), below])
