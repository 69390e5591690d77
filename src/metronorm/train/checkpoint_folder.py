"""The checkpoints of a run: which to go on from, which is the best, which to keep."""

from __future__ import annotations

import errno
import logging
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import CheckpointError
from metronorm.files import remove_directory, remove_leftovers
from metronorm.scalars import is_number
from metronorm.train import checkpoint
from metronorm.train.checkpoint import Checkpoint, NewerFormatError, open_checkpoint, read_state

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch
    from torch import nn

_NAME = re.compile(r"tick-(\d+)")

_log = logging.getLogger("metronorm")


def checkpoint_paths(directory: Path) -> list[Path]:
    """Folders of checkpoints, oldest first; none of them is checked."""
    return sorted(
        (path for path in directory.glob("tick-*") if _NAME.fullmatch(path.name)), key=_tick
    )


def newest_checkpoint(directory: Path) -> Checkpoint:
    """The newest checkpoint that is whole; damaged ones are passed over, with a warning.

    Raises:
        NewerFormatError: the newest that is not damaged was written by a later version.
        CheckpointError: there is none.
    """
    paths = checkpoint_paths(directory)
    found = _first_whole(reversed(paths))
    if found is None:
        damaged = ", ".join(path.name for path in reversed(paths))
        raise CheckpointError(
            "a run needs a whole checkpoint to go on from",
            got=f"{directory} with {f'only damaged ones: {damaged}' if damaged else 'none'}",
            fix="put copies of them back, or start a new run",
        )
    return found


def best_checkpoint(directory: Path) -> Checkpoint | None:
    """The whole checkpoint with the lowest validation loss, if any was evaluated.

    Raises:
        NewerFormatError: the best was written by a later version.
    """
    return _first_whole(path for _, path in _evaluated(directory))


def lowest_loss(directory: Path) -> float:
    """The lowest validation loss of a checkpoint; infinity if none was evaluated."""
    return min((loss for loss, _ in _evaluated(directory)), default=math.inf)


def save(
    directory: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> Path:
    """As `checkpoint.save`; on a full disk room is made first, by removing what is not needed.

    Raises:
        OSError: the disk is full all the same, or not writable; what stays is said in `make_room`.
    """
    try:
        return checkpoint.save(directory, model=model, optimizer=optimizer, state=state)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full or not make_room(directory, state.get("validation_loss")):
            raise
    return checkpoint.save(directory, model=model, optimizer=optimizer, state=state)


def prune(directory: Path, keep: int, *, tick: int) -> None:
    """Remove all but the newest `keep` checkpoints and the one of the lowest validation loss.

    Args:
        directory: the run's `checkpoints` folder.
        keep: how many.
        tick: of the checkpoint that was written last. Later ones are of an attempt that went
            further and are damaged, or this one would go on from there: they do not count, and are
            replaced when this attempt comes to their ticks.

    Raises:
        OSError: one cannot be removed.
    """
    paths = [path for path in checkpoint_paths(directory) if _tick(path) <= tick]
    best = [path for _, path in _evaluated(directory)[:1]]
    for path in paths[:-keep]:
        if path not in best:
            remove_directory(path)
    remove_leftovers(directory)


def make_room(directory: Path, loss: float | None) -> bool:
    """Remove what a run can do without, for a checkpoint that found no room; whether any was.

    What stays is the newest checkpoint that is whole, which is read to be sure, and the one of the
    lowest validation loss, unless the new one's is lower.

    Args:
        directory: the run's `checkpoints` folder.
        loss: validation loss of the new one, where it was evaluated.

    Raises:
        OSError: one cannot be removed.
    """
    remove_leftovers(directory)
    paths = checkpoint_paths(directory)
    try:
        newest, best = _first_whole(reversed(paths)), best_checkpoint(directory)
    except NewerFormatError:
        return False
    if newest is None:
        return False
    kept = {newest.path}
    if best is not None and (loss is None or not loss < best.state["validation_loss"]):
        kept.add(best.path)
    for path in paths:
        if path not in kept:
            remove_directory(path)
    return len(kept) < len(paths)


def _first_whole(paths: Iterable[Path]) -> Checkpoint | None:
    for path in paths:
        try:
            return open_checkpoint(path)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            _log.warning("passing over a damaged checkpoint: %s", error)
    return None


def _evaluated(directory: Path) -> list[tuple[float, Path]]:
    """Validation losses and their checkpoints, lowest first; none of them is checked."""
    found = []
    for path in checkpoint_paths(directory):
        try:
            loss = read_state(path).get("validation_loss")
        except (OSError, msgspec.MsgspecError, RecursionError, ValueError):
            continue
        if is_number(loss) and math.isfinite(loss):
            found.append((float(loss), path))
    return sorted(found)


def _tick(path: Path) -> int:
    return int(path.name.partition("-")[2])
