"""Read sound: one channel of floats, at the rate that is asked for.

libsndfile decodes WAV, FLAC, Ogg and MP3; the package `soundfile`, of the extra `sound`, brings it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metronorm.errors import ConfigError, DataError, MissingDependencyError
from metronorm.files import open_regular
from metronorm.scalars import as_integer

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

ZEROS = 32  # of the sinc on each side: what aliases is 80 dB below
BETA = 8.0  # of the Kaiser window
PASSED = 0.92  # share of the band below half of the lower rate

_PHASES = 64  # that are computed together


class Sound(NamedTuple):
    """Samples from -1 to 1, float32 (frames,), and how many of them there are in a second."""

    samples: NDArray[np.float32]
    rate: int


def read_sound(path: str | os.PathLike[str], *, rate: int | None = None) -> Sound:
    """Decode a file; several channels become their mean.

    Args:
        path: of the file.
        rate: frames a second that are wanted; None: those of the file.

    Raises:
        MissingDependencyError: soundfile is not installed.
        DataError: the file cannot be read or decoded, holds no sound, or is not finite.
        ConfigError: a rate below 1.
    """
    path = Path(path)
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without libsndfile
        raise MissingDependencyError(
            "sound is decoded by the package soundfile",
            got=str(error),
            fix="pip install 'metronorm[sound]'",
        ) from None
    try:
        with open(open_regular(path), "rb") as file:
            values, found = soundfile.read(file, dtype="float32", always_2d=True)
    except OSError as error:
        raise DataError(
            "a file of sound must be readable",
            got=f"{path}: {error.strerror or error}",
            fix="check that it exists, and its permissions",
        ) from None
    except (RuntimeError, TypeError, ValueError) as error:  # LibsndfileError is the first of these
        raise DataError(
            "a file of sound must be one that libsndfile decodes (WAV, FLAC, Ogg, MP3)",
            got=f"{path}: {error}",
            fix="convert it, or leave it out",
        ) from None
    if not values.size:
        raise DataError("a file of sound must hold some", got=f"no frames in {path}")
    if not np.isfinite(values).all():
        raise DataError("sound must be finite numbers", got=f"NaN or infinity in {path}")
    samples = values.mean(axis=1, dtype=np.float32)
    if rate is None:
        return Sound(samples, found)
    return Sound(resample(samples, found, rate), rate)


def resample(samples: NDArray[np.float32], rate: int, to: int) -> NDArray[np.float32]:
    """The same sound with another number of frames a second.

    What the lower rate cannot hold is filtered out: each new frame is a sum of old ones, weighted
    by a sinc in a Kaiser window (Smith, "Digital audio resampling", 2002). Silence is outside.

    Args:
        samples: (frames,).
        rate: frames a second that it has.
        to: frames a second that are wanted.

    Returns:
        float32 (frames * to / rate, rounded up,); frame n is at the time n / to.

    Raises:
        ConfigError: a rate that is no whole number from 1 on.
    """
    for each in (rate, to):
        if (as_integer(each) or 0) < 1:
            raise ConfigError("a rate must be a whole number from 1 on", got=repr(each))
    if rate == to:
        return samples
    common = math.gcd(rate, to)
    up, down = to // common, rate // common
    scale = PASSED * min(1.0, up / down)  # of the filter's band, as a share of the input's
    reach = math.ceil(ZEROS / scale)  # frames of the input on each side
    count = -(-len(samples) * up // down)
    turns = -(-count // up)
    padded = np.zeros(reach + max(turns * down, len(samples)) + reach + 1, np.float32)
    padded[reach : reach + len(samples)] = samples
    result = np.empty((turns, up), np.float32)
    # new frame t * up + p is at the old place t * down + (p * down) / up: one filter for each p
    for first in range(0, up, _PHASES):
        phases = np.arange(first, min(first + _PHASES, up))
        places, parts = np.divmod(phases * down, up)
        away = np.arange(-reach, reach + 1) - (parts / up)[:, None]  # (phases, taps)
        window = np.i0(BETA * np.sqrt(np.clip(1 - (away / reach) ** 2, 0, 1))) / np.i0(BETA)
        span = places[-1] - places[0] + 2 * reach + 1
        filters = np.zeros((span, len(phases)), np.float32)
        rows = (places - places[0])[:, None] + np.arange(2 * reach + 1)
        filters[rows, np.arange(len(phases))[:, None]] = scale * np.sinc(scale * away) * window
        frames = np.lib.stride_tricks.sliding_window_view(padded, span)[places[0] :: down]
        result[:, phases] = frames[:turns] @ filters
    return result.reshape(-1)[:count]
