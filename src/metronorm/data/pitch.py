"""The pitch of a voice, by autocorrelation and the cheapest path through its candidates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metronorm.data.spectrogram import frames
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CANDIDATES = 8  # of a frame
QUIET = 0.03  # of the loudest sample: below it nothing is voiced
VOICED = 0.45  # autocorrelation from which a frame is voiced
OCTAVE = 0.06  # cost of a pitch, per octave below the highest: of equal ones the higher counts
JUMP = 1.0  # cost of an octave between two frames
SWITCH = 0.14  # cost of a change between voiced and not
BAND = 1200.0  # Hertz, above which there is more noise than voice
_SETTLED = 0.01  # seconds, for which the costs of the paths are meant


class Pitch(NamedTuple):
    """By frame: Hertz, 0 where nothing is voiced, and the autocorrelation at its period."""

    hertz: NDArray[np.float32]
    strength: NDArray[np.float32]


def find_pitch(
    samples: NDArray[np.float32],
    rate: int,
    *,
    hop: float = 0.01,
    lowest: float = 65.0,
    highest: float = 600.0,
) -> Pitch:
    """The pitch around n * hop, for every n (Boersma, 1993).

    The autocorrelation of a windowed frame is divided by that of the window. Its highest peaks are
    candidates, refined by a parabola. The path through them that costs least (Viterbi) decides.

    Args:
        samples: (frames,) of sound.
        rate: of them a second.
        hop: seconds between two frames.
        lowest: Hertz; a frame has three of its periods.
        highest: Hertz.

    Returns:
        As many frames as `log_mel` has.

    Raises:
        DataError: no samples.
        ConfigError: no range, or one above a quarter of the rate.
    """
    if not 0 < lowest < highest <= rate / 4:
        raise ConfigError(
            f"a pitch in sound of {rate:,} Hz must lie between 0 and {rate / 4:,.0f}",
            got=f"{lowest:,.0f} to {highest:,.0f}",
        )
    width = round(3 * rate / lowest)
    cut = frames(samples, width, round(hop * rate))
    cut = cut - cut.mean(axis=1, keepdims=True)
    loud = np.abs(cut).max(axis=1) / max(float(np.abs(samples).max()), 1e-12)
    longest = math.ceil(rate / lowest)
    curve = _autocorrelation(cut, longest + 2, BAND / rate)  # (frames, lags)
    hertz, strength = _candidates(curve, rate, lowest, highest)
    worth = np.where(
        strength > 0, strength - OCTAVE * np.log2(highest / np.maximum(hertz, 1)), -9.0
    )
    # a frame without a voice is worth more, the quieter it is
    silent = VOICED + np.maximum(0, 2 - loud * (1 + VOICED) / QUIET)
    best = _path(
        np.concatenate([silent[:, None], worth], axis=1),
        np.concatenate([np.zeros((len(hertz), 1)), np.log2(np.maximum(hertz, 1))], axis=1),
        _SETTLED / hop,
    )
    rows = np.arange(len(best))
    voiced = best > 0
    chosen = np.maximum(best - 1, 0)
    return Pitch(
        np.where(voiced, hertz[rows, chosen], 0).astype(np.float32),
        np.where(voiced, strength[rows, chosen], curve[:, round(rate / highest) :].max(1)).astype(
            np.float32
        ),
    )


def _autocorrelation(cut: NDArray[np.float32], lags: int, band: float) -> NDArray[np.float64]:
    """That of each frame at lags from 0 on, (frames, lags), as if it had no window; 1 at lag 0.

    `band` is the highest frequency that counts, as a share of the rate.
    """
    width = cut.shape[1]
    size = 1 << (2 * width - 1).bit_length()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(width) + 0.5) / width)

    def of(values: NDArray[Any]) -> NDArray[Any]:
        power = np.abs(np.fft.rfft(values * hann, size)) ** 2
        power[..., int(band * size) + 1 :] = 0
        return np.fft.irfft(power, size)[..., :lags]

    window = of(np.ones(width))
    curve = of(cut)
    flat = curve[:, :1] <= 1e-12
    return np.where(flat, 0.0, curve / np.where(flat, 1.0, curve[:, :1]) * (window[0] / window))


def _candidates(
    curve: NDArray[np.float64], rate: int, lowest: float, highest: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hertz and height of the highest peaks, (frames, CANDIDATES); 0 where there are fewer."""
    middle, left, right = curve[:, 1:-1], curve[:, :-2], curve[:, 2:]
    peak = (middle > left) & (middle >= right) & (middle > 0)
    bend = np.where(peak, left - 2 * middle + right, -1.0)
    shift = np.where(peak, 0.5 * (left - right) / bend, 0.0)  # lags
    height = middle - 0.25 * (left - right) * shift
    found = rate / (np.arange(1, curve.shape[1] - 1) + shift)
    peak &= (found >= lowest) & (found <= highest)
    # a peak between two lags can seem to be above 1
    height = np.where(peak, np.where(height > 1, 1 / np.maximum(height, 1), height), 0.0)
    ranks = height - np.where(peak, OCTAVE * np.log2(highest / found), 0)
    order = np.argsort(-ranks, axis=1, kind="stable")[:, :CANDIDATES]
    height, found = (np.take_along_axis(each, order, 1) for each in (height, found))
    return np.where(height > 0, found, 0.0), height


def _path(
    worth: NDArray[np.float64], octaves: NDArray[np.float64], scale: float
) -> NDArray[np.int64]:
    """The place in each row of the path that is worth most; place 0 is not voiced."""
    steps = np.zeros(worth.shape, np.int64)
    switch = np.zeros((worth.shape[1],) * 2)
    switch[0, 1:] = switch[1:, 0] = SWITCH * scale
    total = worth[0]
    for row in range(1, len(worth)):
        jump = JUMP * scale * np.abs(octaves[row][:, None] - octaves[row - 1])
        jump[0] = jump[:, 0] = 0
        through = total - jump - switch  # (now, before)
        steps[row] = through.argmax(axis=1)
        total = through[np.arange(len(total)), steps[row]] + worth[row]
    best = np.zeros(len(worth), np.int64)
    best[-1] = total.argmax()
    for row in range(len(worth) - 1, 0, -1):
        best[row - 1] = steps[row, best[row]]
    return best
