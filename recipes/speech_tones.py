"""Tell the tones of Mandarin syllables: learned from one speaker, tested on the other.

    pip install 'metronorm[train,sound]'; apt-get install gcin-voice
    python recipes/speech_tones.py --speaker 5 --around speaker --run runs/tones --publish

A pre-norm transformer reads the pitch (with `--spectrum`, log-mel bands too, from which it learns
the speaker). With `--around syllable` nothing of the test speaker is known. With `--around speaker`
the median of that speaker's pitch is: transductive, as it is of the sounds that are tested on. What
was reached is in recipes/results/speech_tones.json. Read from top to bottom.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch.nn.functional as F  # noqa: N812
from lib import contours, results
from lib.hearing import padded

from metronorm.data import Shuffled, read_sound
from metronorm.data.shuffled import hash_columns
from metronorm.models import SpeechEncoder
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

OPTIMIZER = OptimizerConfig(learning_rate=3e-3, final=0.0)
SHOWN = 4  # syllables, at the end
SPLIT = ("folder", "speaker", "around", "spectrum")


@dataclass(frozen=True)
class Config(TrainConfig):
    """The options of every training, with defaults for this one, and its own."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OPTIMIZER, metadata={"on_resume": "branch"}
    )
    ticks: int = 300
    batch_size: int = 32
    evaluate_every: int = 50
    best: str = "accuracy"
    best_mode: Literal["min", "max"] = "max"
    speaker: Literal["3", "5"] = "3"
    """Whom to learn from; the other one is tested."""
    around: Literal["syllable", "speaker"] = "syllable"
    """What pitch is relative to: the median of the syllable, or of all that the speaker says."""
    width: int = 48
    """Of the residual stream."""
    layers: int = 2
    """Blocks."""
    dropout: float = 0.1
    """Share of the activations to drop."""
    spectrum: bool = False
    """See a log-mel spectrum beside the pitch."""
    smoothing: float = 0.1
    """Share of the labels that is spread over all tones."""
    folder: str = ""
    """Folder of the syllables. Empty: that of Debian's package."""


def task(config: Config) -> Task:
    """Nine tenths of a speaker to learn from, a tenth to watch; the other speaker at the end."""
    own, other = speakers(config)
    watched = contours.every_tenth(own.tones)
    seen, unseen = own.part(~watched), own.part(watched)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch[0], batch[1])[0]
        smoothing = config.smoothing if model.training else 0.0
        return F.cross_entropy(logits, batch[2], reduction="sum", label_smoothing=smoothing)

    def varied(batch: Any, chance: np.random.Generator) -> Any:
        rows, tones = batch
        shift = 0.15 if config.around == "syllable" else 0.7
        return *padded([contours.varied(row, chance, shift=shift) for row in rows]), tones

    return Task(
        model=lambda: SpeechEncoder(
            own.rows[0].shape[1],
            len(contours.NAMES),
            width=config.width,
            layers=config.layers,
            dropout=config.dropout,
            stem="time",
            pooled=True,
        ),
        batches=Shuffled(
            seen.rows,
            seen.tones,
            seed=config.seed,
            transform=varied,
            data_id=hash_columns([np.concatenate([*own.rows, *other.rows]), own.tones]),
        ),
        loss=loss,
        count=lambda batch: len(batch[2]),
        measure=measure,
        validation=lambda: contours.in_order(unseen),
        test=lambda: contours.in_order(other),
        hooks=[Hook(config.ticks, lambda moment: show(moment, unseen))],
        unit="syllables",
    )


def speakers(config: Config) -> tuple[contours.Heard, contours.Heard]:
    """The one to learn from, and the other."""
    first, second = (
        contours.listen(config.folder, name, config.around, spectrum=config.spectrum)
        for name in ("3", "5")
    )
    return (first, second) if config.speaker == "3" else (second, first)


def measure(model: nn.Module, batch: Any) -> dict[str, Any]:
    """The cross entropy, the right answers among the four tones, and F1 of every tone."""
    features, lengths, tones = batch
    logits = model(features, lengths)[0]
    rates = contours.tone_rates(tones.cpu().numpy(), logits.argmax(1).cpu().numpy())
    return {"loss": F.cross_entropy(logits.float(), tones, reduction="sum"), **rates}


def show(moment: Moment, heard: contours.Heard) -> None:
    """Put what was confused on the board, and some syllables with their pitch, to hear and see."""
    answers = contours.answers(moment.model, heard)
    moment.clock.sample("confusions", contours.confusions(heard.tones, answers))
    wrong = np.argsort(answers == heard.tones, kind="stable")  # what was told wrong comes first
    for place in wrong[:SHOWN].tolist():
        syllable = heard.syllables[place]
        said, told = contours.NAMES[syllable.tone], contours.NAMES[int(answers[place])]
        name = f"{syllable.name} {said}, told as {told}"
        samples, rate = read_sound(syllable.path)
        moment.clock.sample(name, samples, rate=rate)
        moment.clock.sample(name, contours.picture(samples, rate))


def beside(run: Path, config: dict[str, Any]) -> dict[str, float]:
    """Macro-F1, and the baselines on the same split."""
    own, other = speakers(Config(**{name: config[name] for name in SPLIT}))
    own = own.part(~contours.every_tenth(own.tones))
    return {"macro_f1": contours.macro_f1(results.tested(run)), **contours.by_hand(own, other)}


if __name__ == "__main__":
    sys.exit(results.train(__file__, ("speaker", "around", "spectrum", "seed"), beside))
