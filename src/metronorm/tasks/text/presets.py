"""Trainings that work as they are. Imports no framework."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from metronorm.data.config import TextConfig
from metronorm.errors import ConfigError
from metronorm.models.config import preset
from metronorm.tasks.text.config import Config
from metronorm.text import nearest
from metronorm.train.config import OptimizerConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

MUON = OptimizerConfig(
    name="ticks_muon",
    matrix_learning_rate=0.01,
    schedule="wsd",
    warmup=0.04,
    decay=0.4,
    final=0.0,
    clip=0.0,  # an orthogonalised update has the same size however large the gradient is
)

TRAINING_PRESETS: Mapping[str, Config] = MappingProxyType(
    {
        # three minutes on two cores
        "quick": Config(
            text=TextConfig(tokenizer="bpe", vocab_size=1024),
            model=preset("quick"),
            optimizer=replace(MUON, learning_rate=4e-3),
            batch_size=16,
            ticks=2400,
            evaluate_every=400,
            sample_every=800,
            checkpoint_every=400,
        ),
        # an hour or two on two cores
        "small": Config(
            text=TextConfig(tokenizer="bpe", vocab_size=1024),
            model=preset("small"),
            optimizer=replace(MUON, learning_rate=2e-3),
            batch_size=12,
            ticks=5000,
            sample_every=500,
        ),
        "gpt2": Config(
            text=TextConfig(tokenizer="bpe", vocab_size=50257),
            model=preset("gpt2"),
            optimizer=OptimizerConfig(learning_rate=6e-4, final=0.1),
            batch_size=4,
            micro_batches=16,
            ticks=20_000,
        ),
    }
)


def training_preset(name: str) -> Config:
    """The training preset of this name; change its fields with `dataclasses.replace`.

    Raises:
        ConfigError: no preset has this name.
    """
    if name not in TRAINING_PRESETS:
        names = ", ".join(TRAINING_PRESETS)
        raise ConfigError(
            f"preset must be one of {names}", got=repr(name), fix=nearest(name, TRAINING_PRESETS)
        )
    return TRAINING_PRESETS[name]
