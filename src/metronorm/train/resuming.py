"""What a resumed training goes on from, and what must be as it was.

| in `checkpoints/` there is | it goes on |
| --- | --- |
| a whole checkpoint | after its tick; damaged ones that are newer are passed over, with a warning |
| none: the run was killed before its first one | at tick 0, with a warning |
| only damaged ones, or the newest is of a later version | not at all |
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from metronorm.checkpoints.checkpoint import FOLDER
from metronorm.checkpoints.folder import checkpoint_at, checkpoint_paths, newest_checkpoint
from metronorm.errors import CheckpointError, DataError
from metronorm.host import describe_host
from metronorm.train.config_changes import refused_changes
from metronorm.train.precision import Fixed  # noqa: TC001 - msgspec reads it
from metronorm.train.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.train.config import TrainConfig

_log = logging.getLogger("metronorm")


class _LoopState(msgspec.Struct, frozen=True):
    """What the loop keeps in a checkpoint."""

    sampler: dict[str, Any]
    precision: Fixed
    data_id: str | None = None
    text: str | None = None
    """The name of `data_id` in older checkpoints."""
    machine: dict[str, Any] = {}
    branches: dict[str, int] = {}
    """By the number of a branch that it comes from, the tick where that began."""


def checkpoint_to_resume(
    directory: Path, tick: int | None = None, world: World | None = None
) -> Checkpoint | None:
    """The checkpoint that the run in `directory` goes on from; None: it begins at tick 0.

    Args:
        directory: of the run.
        tick: of the checkpoint that was chosen; None: the newest.
        world: the processes that go on together; None: this one alone.

    Raises:
        CheckpointError: there are only damaged ones, or one that this version cannot read, or none
            of that tick.
    """
    folder = directory / FOLDER
    world = world or World()
    if tick is not None:
        found = checkpoint_at(folder, tick, world)
    elif not world.told(lambda: len(checkpoint_paths(folder))):
        _log.warning("%s has no checkpoint yet: it begins again at tick 0", directory)
        return None
    else:
        found = newest_checkpoint(folder, world)
    try:
        msgspec.convert(found.state, _LoopState)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{found.path} must be of a training", got=str(error)) from None
    return found


def warn_if_not_exact(found: Checkpoint, machine: dict[str, Any]) -> None:
    """Warn where the run cannot go on bit for bit: rounding depends on the machine.

    Args:
        found: the checkpoint that the run goes on from.
        machine: what `describe_machine` says now.
    """
    before = found.state.get("machine", {})
    changed = [
        f"{name} {before[name]}, now {now}"
        for name, now in machine.items()
        if before.get(name, now) != now
    ]
    if changed:
        _log.warning(
            "the run goes on, but not bit for bit as it would have: %s", "; ".join(changed)
        )


def data_id_of(found: Checkpoint) -> str | None:
    """The hash, or other name, of the data that the run began with; None if it has none."""
    name: str | None = found.state.get("data_id") or found.state.get("text")
    return name


def check_same_config(found: Checkpoint, config: TrainConfig, *, branch: bool) -> None:
    """Refuse a checkpoint that came from another run.

    Raises:
        CheckpointError: it was made with another config.
    """
    made = found.state.get("config")
    if not isinstance(made, dict):  # an older checkpoint
        return
    refused = refused_changes(config, made, proven=True, branch=branch)
    if refused:
        names = ", ".join(change.name for change in refused)
        raise CheckpointError(
            f"{found.path} must be a checkpoint of this run",
            got=f"one that was made with another config ({names})",
            fix="put the run's own checkpoints back",
        )


def describe_machine(device: torch.device, *, compiled: bool) -> dict[str, str | int | bool]:
    """What rounding depends on, beside the config."""
    return {
        "processor": describe_host()["processor"],
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "device": device.type,
        "compiled": compiled,
    }


def check_same_data(before: str | None, now: str | None) -> None:
    """Refuse to go on with other data than the run had.

    Args:
        before: the hash, or other name, of the data that the run began with; None: not known.
        now: that of the data there is; None: not known.

    Raises:
        DataError: both are known, and differ.
    """
    if before and now and before != now:
        raise DataError(
            "a resumed run must have the data it was begun with",
            got="data with another SHA-256: it has changed, or was prepared by an older version",
            fix="put the original data back or name it (--data of a text), or start a new run, "
            "without data_id in its config",
        )
