"""Memory of a fine-tuning: foreseen before its first tick, and kept within `--memory`.

Of what fits, the fastest is chosen. In this order, from the fastest on:

| activations | micro-batch | rows of logits at once |
| --- | --- | --- |
| kept | as asked, then smaller ones, with more of them in a tick | as usual |
| kept | the smallest | fewer |
| computed again | as asked, then smaller ones | as usual |
| computed again | the smallest | fewer |

A tick has the same examples in all of them. While something is tried out, it is left as soon as it
holds too much.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from metronorm.errors import ConfigError, OutOfMemoryError
from metronorm.memory import available_bytes, peak_bytes, resident_bytes
from metronorm.planning.forecasting import resting
from metronorm.planning.live_bytes import TooManyBytesError, beat_bytes
from metronorm.ranks import find_place
from metronorm.text import parse_size, size
from metronorm.train.precision import discarding_gradients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.finetune.config import Config
    from metronorm.finetune.packing import Packs, Rows
    from metronorm.planning.forecasting import Forecast, Resting
    from metronorm.train.preparing import Preparation

_log = logging.getLogger("metronorm")

RESERVE = 0.1  # of the memory is left free: a forecast may be wrong by as much
_CHUNKS = (256, 64, 16)  # rows of logits
_MUST = "a fine-tuning must fit into --memory, of which a tenth is left free"
_ADVICE = (
    "--way lora or norm, --body bf16, --optimizer.name ticks_sign, a smaller --context, or more "
    "memory"
)


def least(config: Config) -> Config:
    """The config that takes the least memory for the same ticks."""
    *_, last = choices(config)
    return last


def choices(config: Config) -> Iterator[Config]:
    """Configs of the same ticks, from the fastest to the one that takes the least memory."""
    window, asked = config.batch_size * config.micro_batches, config.batch_size
    sizes = [asked]
    for smaller in range(asked // 2, 0, -1):
        if window % smaller == 0 and smaller <= sizes[-1] // 2:
            sizes.append(smaller)
    chunks = [each for each in _CHUNKS if each < (config.loss_chunk or _CHUNKS[0] + 1)]
    beats = [(each, config.loss_chunk) for each in sizes]
    if config.task != "classify":
        beats += [(sizes[-1], each) for each in chunks]
    for again in sorted({config.activation_checkpointing, True}):
        for batch_size, chunk in beats:
            yield replace(
                config,
                batch_size=batch_size,
                micro_batches=window // batch_size,
                loss_chunk=chunk,
                activation_checkpointing=again,
            )


def foresee(ready: Preparation, order: Packs | Rows, asked: Config | None) -> dict[str, Any] | None:
    """Foresee the memory of a training, and choose how to keep it within the config's.

    Args:
        ready: before it has an optimizer; its beats are changed to those of the choice.
        order: of the examples.
        asked: the config to choose a variant of; None: it stays as it is.

    Returns:
        Fields for the record, in bytes; None where the system does not say what a process holds.

    Raises:
        OutOfMemoryError: what fits is not found.
        ConfigError: there is a limit, and it cannot be kept here.
    """
    config: Any = ready.step.config
    limit = parse_size(config.memory) if config.memory else None
    activations = _activations(ready, order, config, None)  # first: it loads libraries
    rest = resting(ready)
    if rest is None:
        if limit is not None:
            raise ConfigError("--memory is for one process on a CPU of Linux", got=config.memory)
        return None
    if limit is None or asked is None:
        found = rest.with_beats(activations or 0, config.micro_batches)
        _check(found, limit)
    else:
        found = _choose(ready, rest, order, asked, int(limit * (1 - RESERVE)))
    parts = {f"{name.replace(' ', '_')}_bytes": each for name, each in found.held.items()}
    return {"memory_bytes": found.total, **parts}


def check_alone(config: Config) -> None:
    """Raise ConfigError if there is a limit of memory, and there are several processes."""
    processes = find_place().world_size
    if config.memory and processes > 1:
        raise ConfigError(
            "--memory is for one process",
            got=f"{processes} processes",
            fix="a smaller --batch-size, or --activation-checkpointing",
        )


def check_loaded(config: Config) -> None:
    """Refuse a limit that the process has passed already, before anything is tried out.

    Raises:
        OutOfMemoryError: it has.
    """
    limit, held = int(parse_size(config.memory) * (1 - RESERVE)), peak_bytes()
    if held > limit:
        raise OutOfMemoryError(
            _MUST,
            got=f"{size(held)} to load the model and its data, and {size(limit)} to hold them",
            fix="more memory, or a smaller model",
        )


def _choose(
    ready: Preparation, rest: Resting, order: Packs | Rows, asked: Config, limit: int
) -> Forecast:
    for choice in choices(replace(asked, data_id=ready.step.config.data_id)):
        most = limit - rest.with_beats(0, choice.micro_batches).total_held
        activations = _activations(ready, order, choice, most) if most > 0 else None
        if activations is None:
            continue
        found = rest.with_beats(activations, choice.micro_batches)
        if found.total <= limit:
            _say(choice, found)
            return found
    # the last choice takes the least
    activations = _activations(ready, order, choice, None) or 0
    found = rest.with_beats(activations, choice.micro_batches)
    _check(found, limit)
    return found


def _activations(
    ready: Preparation, order: Packs | Rows, config: Config, most: int | None
) -> int | None:
    """Bytes of the largest beat; None if there are more than `most`."""
    ready.change(config)
    model: Any = ready.step.model
    model.chunk = config.loss_chunk or None
    free = available_bytes()
    with discarding_gradients(model):
        try:
            return beat_bytes(
                ready.step,
                order.largest(config.batch_size),
                most=min(sys.maxsize if each is None else each for each in (most, free)),
            )
        except TooManyBytesError:
            if most is not None:
                return None
            raise OutOfMemoryError(
                "a micro-batch must fit into memory",
                got=f"more than the {size(free or 0)} that are free",
                fix=_ADVICE,
            ) from None


def _check(found: Forecast, limit: int | None) -> None:
    """Raise OutOfMemoryError if it is more than the limit, or than there is; warn if it is near."""
    if limit is not None:
        if found.total > limit:
            raise OutOfMemoryError(
                _MUST,
                got=f"at least {found}, and {size(limit)} to hold it",
                fix=_ADVICE,
            )
        return
    available, resident = available_bytes(), resident_bytes()
    if available is None or resident is None or found.total <= available + resident:
        return
    free = available + resident
    if found.total > (1 + RESERVE) * free:
        raise OutOfMemoryError(
            "a fine-tuning must fit into the memory that is free",
            got=f"{found}, and {size(free)} free",
            fix=f"--memory {size(free).replace(' ', '')}, {_ADVICE}",
        )
    _log.warning("memory may not suffice: %s, and %s free", found, size(free))


def _say(choice: Config, found: Forecast) -> None:
    """Print what was chosen, in a line."""
    kept = "computed again" if choice.activation_checkpointing else "kept"
    rows = f", {choice.loss_chunk:,} rows of logits at once" if choice.loss_chunk else ""
    line = (
        f"memory     within {choice.memory}: a tick of {choice.micro_batches:,} x "
        f"{choice.batch_size:,}, activations {kept}{rows}; forecast {size(found.total)}"
    )
    tqdm.write(line, file=sys.stderr)
