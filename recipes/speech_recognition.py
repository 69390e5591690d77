"""Write down what is said in Czech: 1.6 hours of a game's dialogues, tested on levels of their own.

    pip install 'metronorm[train,sound]'; apt-get install fillets-ng-data fillets-ng-data-cs
    python recipes/speech_recognition.py
    python recipes/speech_recognition.py --run runs/czech --publish

Log-mel spectrograms, pre-norm blocks on a quarter of the frames, and CTC (Graves et al., 2006) over
letters; batches of like lengths, and SpecAugment. The loop tests the likeliest path; `--publish`
also tests a prefix beam with a language model of letters, learned from the same lines. What was
reached is in recipes/results/speech_recognition.json. Read from top to bottom.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F  # noqa: N812
from lib import ctc, dictation, error_rates, results
from lib.hearing import groups
from lib.spectrograms import with_alignment

from metronorm.data import Planned, read_sound
from metronorm.data.shuffled import hash_columns
from metronorm.models import SpeechEncoder
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

OPTIMIZER = OptimizerConfig(name="ticks_muon", learning_rate=2e-3, schedule="wsd", final=0.0)
SHOWN = 4  # lines, at each evaluation


@dataclass(frozen=True)
class Config(TrainConfig):
    """The options of every training, with defaults for this one, and its own."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OPTIMIZER, metadata={"on_resume": "branch"}
    )
    ticks: int = 8000
    batch_size: int = 1
    """Groups of lines of like lengths in a micro-batch."""
    evaluate_every: int = 500
    checkpoint_every: int = 500
    best: str = "cer"
    ema: float = 0.995
    frames: int = 3000
    """Frames of a group at most: hundredths of a second, padding counted."""
    width: int = 96
    """Of the residual stream."""
    layers: int = 6
    """Blocks."""
    dropout: float = 0.1
    """Share of the activations to drop."""
    share: float = 1.0
    """Of the levels to learn from: for a curve over how much was heard."""
    folder: str = ""
    """Folder of the game. Empty: that of Debian's packages."""


def task(config: Config) -> Task:
    """Four fifths of the levels to learn from, a tenth to watch, a tenth at the end."""
    parts = dictation.listen(config.folder, config.share)
    lengths = [len(each.features) for each in parts.train]
    everything = [each.features for part in parts for each in part]
    return Task(
        model=lambda: net(config.width, config.layers, config.dropout),
        batches=Planned(
            lambda epoch: groups(lengths, config.frames, seed=config.seed, epoch=epoch),
            lambda chosen: dictation.collated(parts.train, chosen),
            data_id=hash_columns([np.concatenate(everything)]),
        ),
        loss=loss,
        count=lambda batch: int(batch[3].sum()),
        measure=measure,
        validation=lambda: dictation.in_order(parts.validation),
        test=lambda: dictation.in_order(parts.test),
        hooks=[Hook(config.evaluate_every, lambda moment: show(moment, parts.validation))],
        unit="letters",
    )


def net(width: int, layers: int, dropout: float = 0.0) -> SpeechEncoder:
    """From log-mel bands, (batch, time, bands), to logits, (batch, time / 4, symbols)."""
    return SpeechEncoder(
        dictation.BANDS, dictation.SYMBOLS, width=width, layers=layers, dropout=dropout
    )


def loss(model: nn.Module, batch: Any) -> Tensor:
    """CTC, in float32, summed over all letters."""
    logits, lengths = model(batch[0], batch[1])
    return ctc_loss(logits, lengths, batch)


def ctc_loss(logits: Tensor, lengths: Tensor, batch: Any) -> Tensor:
    """Minus the logarithm of the probability of all paths that spell each line, summed."""
    scores = logits.float().log_softmax(-1).transpose(0, 1)  # (time, batch, symbols)
    return F.ctc_loss(scores, batch[2], lengths, batch[3], blank=ctc.BLANK, reduction="sum")


def measure(model: nn.Module, batch: Any) -> dict[str, Any]:
    """The loss, and edits of letters and words on the likeliest path."""
    logits, lengths = model(batch[0], batch[1])
    sums: dict[str, tuple[int, int]] = {}
    for symbols, count, got in zip(
        batch[2].tolist(), batch[3].tolist(), dictation.heard(logits, lengths), strict=True
    ):
        wanted = dictation.text_of(symbols[:count])
        for name, pair in error_rates.counts(wanted, dictation.text_of(got)).items():
            before = sums.get(name, (0, 0))
            sums[name] = (before[0] + pair[0], before[1] + pair[1])
    return {"loss": ctc_loss(logits, lengths, batch), **sums}


def show(moment: Moment, spoken: list[dictation.Spoken]) -> None:
    """Put lines on the board: what was said and heard, and where in the spectrogram."""
    chosen = spoken[:: max(1, len(spoken) // SHOWN)][:SHOWN]
    rows = []
    for each, scores in zip(chosen, dictation.log_probabilities(moment.model, chosen), strict=True):
        spikes = ctc.spikes(scores)
        got = dictation.text_of([spike.symbol for spike in spikes])
        edits, count = error_rates.counts(each.text, got)["cer"]
        rows.append({"said": each.text, "heard": got, "cer": edits / count})
        picture = with_alignment(each.features, np.exp(scores), [each.first for each in spikes])
        name = f"{each.line.level} {each.line.path.stem}"
        moment.clock.sample(name, picture)
        if moment.last:
            samples, rate = read_sound(each.line.path)
            moment.clock.sample(name, samples, rate=rate)
    moment.clock.sample("transcripts", rows)


def beside(run: Path, config: dict[str, Any]) -> dict[str, float]:
    """With and without the language model, on the test levels: rates and their intervals."""
    from lib.decoding import rates

    parts = dictation.listen(config["folder"], config["share"])
    average = "ema" if config["ema"] else None
    return rates(run, net(config["width"], config["layers"]), parts, average)


if __name__ == "__main__":
    sys.exit(results.train(__file__, ("share", "layers", "width", "seed"), beside))
