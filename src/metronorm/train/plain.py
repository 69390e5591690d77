"""A training's config as plain values: kept in `run.json` and checkpoints, compared on resume.

What a resumed run may not change, and what it may:

| option | on resume |
| --- | --- |
| what the parameters depend on | as it was |
| `text.data` | anything, if its tokens are the same: their SHA-256 is in the checkpoint |
| how often to evaluate, save and sample, and how much | anything (`FREE_ON_RESUME`) |
| `text.cache` | never the run's own: the run may be somebody else's, and the cache is written to |
"""

from __future__ import annotations

from dataclasses import replace
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


def from_plain(plain: Any) -> TrainConfig:
    """The config that `to_plain` made these values of, but for the cache, which is the default one.

    Raises:
        ConfigError: they are none.
    """
    if not isinstance(plain, dict) or not {"text", "model", "optimizer"} <= plain.keys():
        raise ConfigError(
            "the run's config must be a training's",
            got="a run of another kind",
            fix="metronorm train goes on with what metronorm train has begun",
        )
    try:
        config = msgspec.convert(plain, TrainConfig, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise ConfigError("the run's config must be a training's", got=str(error)) from None
    return replace(config, text=replace(config.text, cache=None))


def differences(
    old: dict[str, Any],
    new: dict[str, Any],
    prefix: str = "",
    *,
    free: frozenset[str] = FREE_ON_RESUME,
) -> list[str]:
    """What differs between two plain configs: "model.layers: 4 in the run, 8 asked for"."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after, path = old.get(name), new.get(name), f"{prefix}{name}"
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{path}.", free=free)
        elif before != after and path not in free:
            found.append(f"{path}: {before!r} in the run, {after!r} asked for")
    return found


def check_resumable(config: TrainConfig, plain: dict[str, Any], *, proven: bool = False) -> None:
    """Refuse to resume with a config that would not go on with the same training.

    Args:
        config: asked for.
        plain: the run's, as `to_plain` made it.
        proven: a checkpoint has the tokens' SHA-256, so where the text lies is no difference.

    Raises:
        ConfigError: with every difference.
    """
    free = FREE_ON_RESUME | {"text.data"} if proven else FREE_ON_RESUME
    # older runs keep relative paths, of a folder that is hoped to be this one
    data = list(from_plain(plain).text.data)
    plain = {**plain, "text": {**plain["text"], "data": data}}
    found = differences(plain, to_plain(config), free=free)
    if found:
        raise ConfigError(
            "a resumed run keeps its config",
            got="; ".join(found),
            fix="leave these options out, or start a new run",
        )
