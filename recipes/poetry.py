"""Learn to write poems of the Tang, character by character, with a GPT from scratch.

    npm install chinese-poetry; in a checkout of Metronorm: make data
    python recipes/poetry.py                     or: metronorm train --recipe recipes/poetry.py
    python recipes/poetry.py --run runs/tang --publish         writes and counts as well, at the end
    python recipes/poetry.py --dynasty song

A Han character is a token, and a rare one its bytes. A couplet that an earlier poem has is left
out; whole poems are held out. Beside the GPT is a five-gram by Kneser and Ney. Bits per character
are those of all characters and of each poem's end, over the characters. Read from top to bottom.
"""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from lib import results
from lib.hanzi import Characters, batches, bits, form, write
from lib.ngram import NGram
from torch import Tensor, nn

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.data import WindowSampler
from metronorm.data.poems import Dynasty, poems, tones
from metronorm.models import GPT, GPTConfig
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.data.poems import Poems

MODEL = GPTConfig(context=128, layers=4, heads=5, width=160, tie_embeddings=False)
OPTIMIZER = OptimizerConfig(
    name="ticks_muon", learning_rate=3e-3, matrix_learning_rate=0.01, schedule="wsd",
    warmup=0.02, decay=0.5, final=0.0, clip=0.0,
)  # fmt: skip
WRITTEN = 200  # poems, of which it is counted how many keep to the rules


@dataclass(frozen=True)
class Config(TrainConfig):
    """The options of every training, with defaults for this one, and three more."""

    optimizer: OptimizerConfig = field(
        default_factory=lambda: OPTIMIZER, metadata={"on_resume": "branch"}
    )
    ticks: int = 4000
    batch_size: int = 8
    evaluate_every: int = 1000
    checkpoint_every: int = 500
    model: GPTConfig = field(default_factory=lambda: MODEL)
    """The shape of the GPT; `vocab_size` is that of the poems."""
    dynasty: Dynasty = "tang"
    """tang: 57,607 poems; song: 254,248."""
    folder: str = ""
    """Folder of the npm package. Empty: where it is installed."""


def task(config: Config) -> Task:
    """Whole poems one after the other, in windows; each held-out poem alone, from its beginning."""
    data, characters = read(config)
    # in another order: neighbours are of one poet, and a held-out poem has none
    order = np.random.default_rng(0).permutation(len(data.train))
    tokens = characters.stream(data.train[place].text for place in order)
    config = replace(config, model=replace(config.model, vocab_size=len(characters)))
    counted = tuple(map(torch.from_numpy, characters.counts()))
    context, size = config.model.context, config.batch_size
    validation, test = (
        batches([characters.encode(poem.text) for poem in part], characters.end, context, 32)
        for part in (data.validation[:300], data.test)
    )
    return Task(
        model=lambda: GPT(config.model),
        batches=WindowSampler(tokens, context, size, seed=config.seed),
        loss=lambda model, batch: model(*batch),
        count=lambda batch: int((batch[1] != -100).sum()),
        measure=lambda model, batch: measure(model, batch, counted),
        validation=validation,
        test=test,
        hooks=[Hook(config.evaluate_every, lambda moment: show(moment, characters), "sample")],
        data_id=hashlib.sha256(tokens.tobytes()).hexdigest(),
        unit="tokens",
        config=config,
    )


def read(config: Any) -> tuple[Poems, Characters]:
    """The poems, and their characters; the config is a `Config` or what a run has kept of it."""
    data = poems(config.dynasty, config.folder or None)
    print(
        f"{len(data.train):,} + {len(data.validation):,} + {len(data.test):,} poems; left out are "
        f"{data.copies:,} couplets that another poem has, and {data.damaged:,} damaged ones"
    )
    return data, Characters(poem.text for poem in data.train)


def measure(model: nn.Module, batch: Any, counted: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """The loss, and the bits per character: all of them, and those of Han characters alone."""
    inputs, targets = batch
    losses = F.cross_entropy(
        model(inputs).flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=-100
    )
    real = targets.flatten().clamp(min=0)
    taken = targets.flatten() >= 0
    characters, han = (table.to(real.device)[real] * taken for table in counted)
    of_han = (han > 0) | ((real < Characters.end) & taken)
    return {
        "loss": losses.sum(),
        "bits_per_character": (losses.sum() / math.log(2), characters.sum()),
        "bits_per_han": ((losses * of_han).sum() / math.log(2), han.sum()),
    }


def show(moment: Moment, characters: Characters) -> None:
    """Four poems, on the board."""
    if moment.rank == 0:
        moment.clock.sample("poems", "\n\n".join(write(moment.model, characters, 4, moment.tick)))


def beside(run: Path, config: dict[str, Any]) -> dict[str, float]:
    """Figures of a five-gram, and how many poems keep to the rules of the form."""
    data, characters = read(SimpleNamespace(**config))
    texts = [[poem.text for poem in part] for part in (data.train, data.test)]
    five_gram = NGram(map(characters.encode, texts[0]), alphabet=range(len(characters)))
    five = bits(five_gram, texts[1], characters)
    model = GPT(replace(GPTConfig(**config["model"]), vocab_size=len(characters)))
    newest_checkpoint(run / "checkpoints").load_model(model)
    known, written = tones(config["folder"] or None), write(model, characters, WRITTEN, 0)
    ours, theirs = (form(each, known).shares for each in (written, texts[1]))
    return (
        {"five_gram_per_character": five[0], "five_gram_per_han": five[1]}
        | {f"written_{name}": value for name, value in ours.items()}
        | {f"held_out_{name}": value for name, value in theirs.items()}
        | {"parameters": sum(each.numel() for each in model.parameters())}
    )


if __name__ == "__main__":
    sys.exit(results.train(__file__, ("dynasty", "seed"), beside))
