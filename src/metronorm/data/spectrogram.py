"""The spectrogram that recognizers of speech read: log energies on the mel scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from metronorm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOOR = 1e-10  # energies below it are silence


def log_mel(
    samples: NDArray[np.float32],
    rate: int,
    *,
    bands: int = 80,
    window: float = 0.025,
    hop: float = 0.01,
    lowest: float = 20.0,
    highest: float | None = None,
) -> NDArray[np.float32]:
    """Log energies in triangular bands of equal width on the mel scale (Davis, Mermelstein, 1980).

    Frame n is the sound around n * hop, in a Hann window; silence is outside.

    Args:
        samples: (frames,) of sound, from -1 to 1.
        rate: of them a second.
        bands: how many.
        window: seconds of a frame.
        hop: seconds between two frames.
        lowest: Hertz where the first band begins.
        highest: Hertz where the last one ends; None: 8,000, or half of the rate if that is less.

    Returns:
        float32 (frames, bands): natural logarithms.

    Raises:
        DataError: no samples.
        ConfigError: a band with no frequency of the transform in it, or one above half of the rate.
    """
    width = round(window * rate)
    size = 1 << (width - 1).bit_length()
    filters = mel_filters(
        rate, size, bands, lowest, min(8000.0, rate / 2) if highest is None else highest
    )
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)).astype(np.float32)
    spectrum = np.fft.rfft(frames(samples, width, round(hop * rate)) * hann, size)
    energies = (spectrum.real**2 + spectrum.imag**2) @ filters.T
    return np.log(np.maximum(energies, FLOOR)).astype(np.float32)


def frames(samples: NDArray[np.float32], width: int, hop: int) -> NDArray[np.float32]:
    """Stretches of sound, (ceil(samples / hop), width); that of number n has n * hop in its middle.

    Raises:
        DataError: no samples.
    """
    if samples.ndim != 1 or not len(samples):
        raise DataError("sound must be samples, (frames,)", got=f"shape {samples.shape}")
    count = -(-len(samples) // hop)
    padded = np.zeros((count - 1) * hop + width, np.float32)
    before = width // 2
    fits = min(len(samples), len(padded) - before)
    padded[before : before + fits] = samples[:fits]
    return np.lib.stride_tricks.sliding_window_view(padded, width)[::hop]


def mel_filters(
    rate: int, size: int, bands: int, lowest: float, highest: float
) -> NDArray[np.float32]:
    """Triangles over the frequencies of a transform of `size` samples, (bands, size / 2 + 1).

    Each has height 1, rises from the middle of the band before it and falls to that of the next;
    mel = 2595 log10(1 + Hertz / 700) (O'Shaughnessy, 1987).

    Raises:
        ConfigError: a triangle with no frequency in it, or one above half of the rate.
    """
    if not 0 <= lowest < highest <= rate / 2 or bands < 1:
        raise ConfigError(
            f"bands of a sound of {rate:,} Hz must lie between 0 and {rate / 2:,.0f}",
            got=f"{bands} from {lowest:,.0f} to {highest:,.0f}",
        )
    first, last = (2595 * math.log10(1 + each / 700) for each in (lowest, highest))
    corners = 700 * (10 ** (np.linspace(first, last, bands + 2) / 2595) - 1)  # Hertz
    hertz = np.arange(size // 2 + 1) * rate / size
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    triangles = np.maximum(np.minimum(rising, falling), 0)
    filters: NDArray[np.float32] = triangles.astype(np.float32)
    if not filters.any(axis=1).all():
        raise ConfigError(
            "every band must hold a frequency of the transform",
            got=f"{bands} bands, and frequencies every {rate / size:.1f} Hz",
            fix="fewer bands, or a longer window",
        )
    return filters
