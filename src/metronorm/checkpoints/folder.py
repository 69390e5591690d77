"""The checkpoints of a run: which to go on from, which is the best, which to keep.

Where a function takes a world, all its ranks call it, and all get the same checkpoint: the first
rank lists the folder. `prune` and `make_room` are for the first rank alone.
"""

from __future__ import annotations

import errno
import logging
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.checkpoints import checkpoint
from metronorm.checkpoints.checkpoint import STATE, Checkpoint, open_checkpoint, read_state
from metronorm.checkpoints.world import ONE_PROCESS, NewerFormatError, agreed
from metronorm.errors import CheckpointError
from metronorm.files import leftovers, remove_directory, remove_leftovers
from metronorm.scalars import as_integer, as_real

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from metronorm.checkpoints.checkpoint import Taken
    from metronorm.checkpoints.world import World

_NAME = re.compile(r"tick-(\d+)")

_log = logging.getLogger("metronorm")


def checkpoint_paths(directory: Path) -> list[Path]:
    """Folders of checkpoints, oldest first; none of them is checked."""
    return sorted(
        (path for path in directory.glob("tick-*") if _NAME.fullmatch(path.name)), key=_tick
    )


def newest_checkpoint(directory: Path, world: World = ONE_PROCESS) -> Checkpoint:
    """The newest checkpoint that is whole; damaged and unfinished ones are passed over, and logged.

    After a branch, those that the run had made before beyond it are older than all of the branch.

    Raises:
        NewerFormatError: the newest that is not damaged was written by a later version.
        CheckpointError: there is none.
    """

    def newest_first() -> list[Path]:
        for path in leftovers(directory):
            if path.name.startswith(".tick-") and not (path / STATE).exists():
                _log.warning("passing over a checkpoint that was not finished: %s", path)
        return sorted(checkpoint_paths(directory), key=_age, reverse=True)

    paths = _listed(directory, newest_first, world)
    found = _first_whole(paths, world)
    if found is None:
        damaged = ", ".join(path.name for path in paths)
        raise CheckpointError(
            "this needs a checkpoint of the run that is whole",
            got=f"{directory} with {f'only damaged ones: {damaged}' if damaged else 'none'}",
            fix="put copies of them back"
            if damaged
            else "metronorm train and finetune write checkpoints; a clock alone writes none",
        )
    return found


def checkpoint_at(directory: Path, tick: int, world: World = ONE_PROCESS) -> Checkpoint:
    """The checkpoint of this tick.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    paths = _listed(directory, lambda: checkpoint_paths(directory), world)
    for path in paths:
        if _tick(path) == tick:
            return open_checkpoint(path, world)
    there = ", ".join(str(_tick(path)) for path in paths)
    raise CheckpointError(
        f"there must be a checkpoint of tick {tick}",
        got=f"{directory} with {f'those of {there}' if there else 'none'}",
    )


def best_checkpoint(directory: Path, world: World = ONE_PROCESS) -> Checkpoint | None:
    """The whole checkpoint with the best evaluation, if any was evaluated.

    Raises:
        NewerFormatError: the best was written by a later version.
    """
    best_first = _listed(directory, lambda: [path for _, path in _evaluated(directory)], world)
    return _first_whole(best_first, world)


def best_score(directory: Path, state: Mapping[str, Any] | None = None) -> float:
    """The best score of a checkpoint, the lower the better; infinity if none was evaluated.

    Args:
        directory: the run's `checkpoints` folder.
        state: of a checkpoint, in whose history to look; None: of the newest.
    """
    return min((score for score, _ in _evaluated(directory, state)), default=math.inf)


def newest_state(directory: Path) -> dict[str, Any]:
    """What the newest checkpoint with a readable `state.json` holds there; empty without one."""
    return _peek(max(checkpoint_paths(directory), key=_age, default=directory))


def newest_branch(directory: Path) -> int:
    """The highest number of a branch that a checkpoint belongs to; 0 where there is none."""
    return max((_branch(path) for path in checkpoint_paths(directory)), default=0)


def write(directory: Path, taken: Taken, world: World = ONE_PROCESS) -> Path:
    """As `checkpoint.write`; on a full disk room is made first, by removing what is not needed.

    Raises:
        OSError: the disk is full all the same, or not writable; what stays is said in `make_room`.
    """
    try:
        return checkpoint.write(directory, taken, world)
    except OSError as error:  # the same one on all ranks
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        score = taken.record.get("score")
        if not full or not any(
            agreed(world, lambda: world.rank == 0 and make_room(directory, score))
        ):
            raise
    return checkpoint.write(directory, taken, world)


def prune(directory: Path, keep: int, *, tick: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one.

    Args:
        directory: the run's `checkpoints` folder.
        keep: how many.
        tick: of the checkpoint that was written last. Later ones are of an attempt that went
            further and are damaged, or this one would go on from there: they do not count, and are
            replaced when this attempt comes to their ticks.

    Raises:
        OSError: one cannot be removed.
    """
    # those that a branch has left are older than all of the branch
    paths = sorted((p for p in checkpoint_paths(directory) if _tick(p) <= tick), key=_age)
    written = next((_peek(path) for path in paths if _tick(path) == tick), None)
    best = [path for _, path in _evaluated(directory, written)[:1]]
    for path in paths[:-keep]:
        if path not in best:
            remove_directory(path)
    remove_leftovers(directory)


def make_room(directory: Path, score: float | None) -> bool:
    """Remove what a run can do without, for a checkpoint that found no room; whether any was.

    What stays is the newest checkpoint that is whole, which is read to be sure, and the best one,
    unless the new one is better.

    Args:
        directory: the run's `checkpoints` folder.
        score: of the new one, where it was evaluated; the lower the better.

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
    if best is not None and (score is None or not score < best_score(directory)):
        kept.add(best.path)
    for path in paths:
        if path not in kept:
            remove_directory(path)
    return len(kept) < len(paths)


def _listed(directory: Path, find: Callable[[], list[Path]], world: World) -> list[Path]:
    """The folders that the first rank finds, for all ranks."""
    names = agreed(world, lambda: [path.name for path in find()] if world.rank == 0 else [])[0]
    return [directory / name for name in names]


def _first_whole(paths: Iterable[Path], world: World = ONE_PROCESS) -> Checkpoint | None:
    for path in paths:
        try:
            return open_checkpoint(path, world)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            if world.rank == 0:
                _log.warning("passing over a damaged checkpoint: %s", error)
    return None


def _evaluated(
    directory: Path, newest: Mapping[str, Any] | None = None
) -> list[tuple[float, Path]]:
    """Scores and their checkpoints, the best first; none of them is checked.

    Those are left out that are not in the history of the state `newest`, because they were made
    beyond the tick where a branch began.
    """
    found = []
    ends = _history(newest_state(directory) if newest is None else newest)
    for path in checkpoint_paths(directory):
        state = _peek(path)
        if _tick(path) > ends.get(as_integer(state.get("branch")) or 0, -1):
            continue
        # of an older version: its score was the validation loss
        score = as_real(state.get("score", state.get("validation_loss")))
        if score is not None and math.isfinite(score):
            found.append((score, path))
    return sorted(found)


def _history(state: Mapping[str, Any]) -> dict[int, float]:
    """The branches that a state comes from, by number, and the last tick of each that counts."""
    try:  # a branch, and the tick it began at; older versions kept none
        begins = msgspec.convert(state.get("branches", {}), dict[int, int], strict=False)
    except msgspec.ValidationError:
        begins = {}
    ends: dict[int, float] = {}
    end: float = as_integer(state.get("tick")) or 0
    for number in sorted({0, as_integer(state.get("branch")) or 0, *begins}, reverse=True):
        ends[number] = end
        end = min(end, begins.get(number, math.inf))
    return ends


def _age(path: Path) -> tuple[int, int]:
    return _branch(path), _tick(path)


def _branch(path: Path) -> int:
    return as_integer(_peek(path).get("branch")) or 0


def _peek(path: Path) -> dict[str, Any]:
    try:
        return read_state(path)
    except (OSError, msgspec.MsgspecError, RecursionError, ValueError):
        return {}


def _tick(path: Path) -> int:
    return int(path.name.partition("-")[2])
