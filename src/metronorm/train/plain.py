"""A training's config as plain values: kept in `run.json` and checkpoints, compared on resume."""

from __future__ import annotations

from typing import Any

import msgspec

from metronorm.errors import ConfigError
from metronorm.train.config import TrainConfig

# What may be chosen anew on resume: nothing the parameters depend on.
FREE_ON_RESUME = frozenset(
    {
        "checkpoint_every",
        "evaluate_every",
        "evaluate_tokens",
        "keep",
        "model.vocab_size",  # the text's, and that must be the same text
        "sample_every",
        "sample_tokens",
        "text.cache",
    }
)


def to_plain(config: TrainConfig) -> dict[str, Any]:
    """The config as plain JSON values."""
    return msgspec.json.decode(msgspec.json.encode(config, enc_hook=str), type=dict[str, Any])


def from_plain(plain: dict[str, Any]) -> TrainConfig:
    """The config that `to_plain` made these values of.

    Raises:
        ConfigError: they are none.
    """
    if not {"text", "model", "optimizer"} <= plain.keys():
        raise ConfigError(
            "the run's config must be a training's",
            got="a run of another kind",
            fix="metronorm train goes on with what metronorm train has begun",
        )
    try:
        return msgspec.convert(plain, TrainConfig, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise ConfigError("the run's config must be a training's", got=str(error)) from None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two plain configs: "model.layers: 4 in the run, 8 asked for"."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after, path = old.get(name), new.get(name), f"{prefix}{name}"
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{path}.")
        elif before != after and path not in FREE_ON_RESUME:
            found.append(f"{path}: {before!r} in the run, {after!r} asked for")
    return found


def check_resumable(config: TrainConfig, plain: dict[str, Any]) -> None:
    """Refuse to resume with a config that would not go on with the same training.

    Raises:
        ConfigError: with every difference.
    """
    found = differences(plain, to_plain(config))
    if found:
        raise ConfigError(
            "a resumed run keeps its config",
            got="; ".join(found),
            fix="leave these options out, or start a new run",
        )
