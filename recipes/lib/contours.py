"""The melody of a syllable: its pitch in semitones, beside its spectrum."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from lib.hearing import between, padded, stretched
from lib.spectrograms import spectrogram, with_line
from metronorm.data import find_pitch, log_mel, mandarin_syllables, read_sound
from metronorm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from metronorm.data.speech import Syllable

NAMES = ("first", "second", "third", "fourth", "neutral")
RATE, HOP, BANDS = 16_000, 0.01, 24
PITCH, VOICED, MELODY = 0, 1, 2  # columns; the bands of the spectrum follow the melody
QUIET = 2.5  # natural logarithms of energy below the loudest frame: what is cut off at the end
FAINT = 3.5  # as much: where a pitch is that of a noise
SCRAP = 4  # frames: a shorter stretch with a pitch is left out beside longer ones
HIGHEST = 450.0  # Hertz of a voice that speaks
REFERENCE = 55.0  # Hertz of 0 semitones
UNIT = 4.0  # semitones that are 1 in what a model sees


class Heard(NamedTuple):
    """What one speaker says: the syllables, their features, and their tones, int64 (syllables,)."""

    syllables: list[Syllable]
    rows: list[NDArray[np.float32]]
    tones: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_]) -> Heard:
        """Some of them."""
        places = np.flatnonzero(chosen).tolist()
        syllables = [self.syllables[place] for place in places]
        return Heard(syllables, [self.rows[place] for place in places], self.tones[places])


def listen(folder: str, speaker: str, around: str, *, spectrum: bool = False) -> Heard:
    """The syllables of a speaker, with pitch around the median of the "syllable" or "speaker".

    Without `spectrum`, their features are the melody alone.

    Raises:
        MissingDependencyError: the package of the syllables, or soundfile, is not installed.
        DataError: no syllables of this speaker, or one that cannot be decoded.
    """
    found, rows = _heard(folder, speaker)
    middle = median_pitch(rows) if around == "speaker" else None
    tones = np.array([each.tone for each in found], dtype=np.int64)
    columns = MELODY + BANDS * spectrum
    return Heard(found, [centred(row[:, :columns], middle) for row in rows], tones)


@cache
def _heard(folder: str, speaker: str) -> tuple[list[Syllable], list[NDArray[np.float32]]]:
    """The syllables of a speaker and their features, which a baseline wants again."""
    found = [each for each in mandarin_syllables(folder or None) if each.speaker == speaker]
    if not found:
        raise DataError("both speakers must have syllables", got=f"none of {speaker}")
    return found, [hear(each) for each in found]


def in_order(heard: Heard, size: int = 100) -> Iterator[tuple[NDArray[Any], ...]]:
    """Batches of syllables as they were said: features, lengths and tones."""
    for first in range(0, len(heard.rows), size):
        part = slice(first, first + size)
        yield *padded(heard.rows[part]), heard.tones[part]


def every_tenth(tones: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which syllables are held out: of every tone the first, the eleventh, ..."""
    chosen = np.zeros(len(tones), np.bool_)
    for tone in np.unique(tones):
        chosen[np.flatnonzero(tones == tone)[::10]] = True
    return chosen


def hear(syllable: Syllable) -> NDArray[np.float32]:
    """Features of a syllable, (time, MELODY + BANDS), a frame every `HOP` seconds.

    Pitch in semitones (between voiced frames a line), whether there is one, and log-mel bands
    around their mean. The syllable begins with its pitch, and ends where pitch and loudness do.
    """
    samples, rate = read_sound(syllable.path, rate=RATE)
    bands = log_mel(samples, rate, bands=BANDS, hop=HOP, lowest=60)
    loud = np.log(np.exp(bands).sum(axis=1))
    hertz = find_pitch(samples, rate, hop=HOP, highest=HIGHEST).hertz
    hertz = without_scraps(np.where(loud > loud.max() - FAINT, hertz, 0))
    voiced, heard = np.flatnonzero(hertz > 0), np.flatnonzero(loud > loud.max() - QUIET)
    begin = voiced[0] if len(voiced) else heard[0]
    part = slice(begin, max(heard[-1], *voiced[-1:], begin) + 1)
    spectrum = bands[part] - bands[part].mean(axis=0)
    melody = np.stack([semitones(hertz[part]), hertz[part] > 0], axis=1)
    return np.concatenate([melody, spectrum], axis=1).astype(np.float32)


def without_scraps(hertz: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pitch by frame, with the short stretches removed that are none of a voice."""
    edges = np.flatnonzero(np.diff(hertz > 0, prepend=False, append=False)).reshape(-1, 2)
    longest = (edges[:, 1] - edges[:, 0]).max(initial=0)
    result = hertz.copy()
    for begin, end in edges.tolist():
        if end - begin < min(SCRAP, longest):
            result[begin:end] = 0
    return result


def semitones(hertz: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pitch above `REFERENCE`; frames without one lie on a line between those that have one."""
    places = np.flatnonzero(hertz > 0)
    if not len(places):
        return np.zeros(len(hertz))
    values = 12 * np.log2(hertz[places].astype(np.float64) / REFERENCE)
    return np.interp(np.arange(len(hertz)), places, values)


def median_pitch(features: Sequence[NDArray[np.float32]]) -> float:
    """The median of a speaker's pitch, over all voiced frames of all syllables."""
    return float(np.median(np.concatenate([row[row[:, VOICED] > 0, PITCH] for row in features])))


def centred(features: NDArray[np.float32], middle: float | None) -> NDArray[np.float32]:
    """Pitch around a speaker's median; None: around the syllable's own, for a speaker unknown."""
    result = features.copy()
    voiced = features[:, VOICED] > 0
    if middle is None:
        middle = float(np.median(features[voiced, PITCH])) if voiced.any() else 0.0
    result[:, PITCH] = np.clip((features[:, PITCH] - middle) / UNIT, -4, 4) if voiced.any() else 0
    return result


def varied(
    features: NDArray[np.float32], chance: np.random.Generator, *, shift: float
) -> NDArray[np.float32]:
    """The same tone, as another could have said it.

    Its ends are cut and its time is warped; its pitch is `shift` higher or lower (a deviation, as
    a share of `UNIT`), wider and tilted; half of the time the lowest part creaks, which leaves no
    pitch there. Half of the spectra are left out: the melody must do.
    """
    cut = chance.integers(0, max(1, len(features) // 7), 2)
    result = features[cut[0] : len(features) - cut[1]]
    frames = max(6, round(len(result) * chance.uniform(0.75, 1.3)))
    bend = np.exp(chance.normal(0, 0.2))
    result = between(result, np.linspace(0, 1, frames) ** bend * (len(result) - 1))
    tilt = chance.normal(0, 0.1) * np.linspace(-1, 1, frames)
    width = np.exp(chance.normal(0, 0.15))
    result[:, PITCH] = result[:, PITCH] * width + chance.normal(0, shift) + tilt
    if chance.random() < 0.5:
        low = result[:, PITCH] < np.quantile(result[:, PITCH], chance.uniform(0, 0.6))
        left = np.flatnonzero((result[:, VOICED] > 0.5) & ~low)
        if len(left) > 2:
            result[low, VOICED] = 0
            result[:, PITCH] = np.interp(np.arange(frames), left, result[left, PITCH])
    if chance.random() < 0.5:
        result[:, MELODY:] = 0
    return result


@torch.no_grad()
def answers(model: nn.Module, heard: Heard) -> NDArray[np.int64]:
    """What a model tells of each syllable, in evaluation mode."""
    training = model.training
    model.eval()
    told = [
        model(torch.from_numpy(features), torch.from_numpy(lengths))[0].argmax(1).numpy()
        for features, lengths, _ in in_order(heard)
    ]
    model.train(training)
    return np.concatenate(told)


def confusions(wanted: NDArray[np.int64], got: NDArray[np.int64]) -> list[dict[str, object]]:
    """A table: a row for every tone, with how often it was told as each."""
    table = np.zeros((len(NAMES), len(NAMES)), np.int64)
    np.add.at(table, (wanted, got), 1)
    return [
        {"said": name, **dict(zip(NAMES, row.tolist(), strict=True))}
        for name, row in zip(NAMES, table, strict=True)
    ]


def picture(samples: NDArray[np.float32], rate: int) -> NDArray[np.uint8]:
    """The spectrogram of a sound, with its pitch over three octaves as a line over it."""
    hertz = find_pitch(samples, rate, hop=HOP).hertz
    height = np.log2(np.maximum(hertz, REFERENCE) / REFERENCE) / 3
    return with_line(spectrogram(log_mel(samples, rate, hop=HOP)), height, hertz > 0)


def contour(features: NDArray[np.float32], points: int = 20) -> NDArray[np.float32]:
    """For a classical classifier: the pitch at equal steps from the first voiced frame to the last.

    Behind it stand the slope between its ends, and how long it is.
    """
    voiced = np.flatnonzero(features[:, VOICED] > 0)
    part = features[voiced[0] : voiced[-1] + 1] if len(voiced) else features
    line = stretched(part, points)[:, PITCH]
    return np.append(line, [line[-1] - line[0], len(part) * HOP]).astype(np.float32)


def by_hand(own: Heard, other: Heard) -> dict[str, float]:
    """Baselines: the commonest tone, and a support vector machine on the contours.

    Returns:
        Of the other speaker, the share of right answers among the four tones, and macro-F1.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    seen, unseen = (np.stack([contour(row) for row in each.rows]) for each in (own, other))
    machine = make_pipeline(StandardScaler(), SVC(C=10, class_weight="balanced"))
    machine.fit(seen, own.tones)
    commonest = np.full(len(other.tones), np.bincount(own.tones).argmax())
    found = {}
    for name, got in (("svm", machine.predict(unseen)), ("majority", commonest)):
        sums = tone_rates(other.tones, got)
        values = {key: total / max(number, 1) for key, (total, number) in sums.items()}
        found[f"{name}_accuracy"] = values["accuracy"]
        found[f"{name}_macro_f1"] = macro_f1(values)
    return found


def macro_f1(measures: Mapping[str, float]) -> float:
    """The mean of the F1 of all tones, from measures that have them."""
    return float(np.mean([measures[f"f1_{name}"] for name in NAMES]))


def tone_rates(wanted: NDArray[np.int64], got: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Sums and divisors: the share of right answers among the four tones, and F1 of every tone.

    F1 is 2 hits / (2 hits + false alarms + misses).
    """
    full = wanted < NAMES.index("neutral")
    found = {"accuracy": (float((wanted == got)[full].sum()), float(full.sum()))}
    for tone, name in enumerate(NAMES):
        said, there = got == tone, wanted == tone
        found[f"f1_{name}"] = (2.0 * (said & there).sum(), float(said.sum() + there.sum()))
    return found
