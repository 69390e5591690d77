"""What a resumed training goes on from, and what must be as it was.

| in `checkpoints/` there is | it goes on |
| --- | --- |
| a whole checkpoint | after its tick; damaged ones that are newer are passed over, with a warning |
| none: the run was killed before its first one | at tick 0, with a warning |
| only damaged ones, or the newest is of a later version | not at all |
"""

from __future__ import annotations

import glob
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch

from metronorm.errors import CheckpointError, DataError
from metronorm.host import describe_host
from metronorm.train.checkpoint import FOLDER
from metronorm.train.checkpoint_folder import checkpoint_paths, newest_checkpoint
from metronorm.train.machine import Precision  # noqa: TC001 - msgspec reads it
from metronorm.train.plain import FREE_ON_RESUME, differences, from_plain, to_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.data.dataset import TextDataset
    from metronorm.train.checkpoint import Checkpoint
    from metronorm.train.config import TrainConfig

_log = logging.getLogger("metronorm")


class _Place(msgspec.Struct, frozen=True):
    position: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class _LoopState(msgspec.Struct, frozen=True):
    """What the loop keeps in a checkpoint."""

    text: str
    sampler: _Place
    precision: Precision
    machine: dict[str, Any] = {}


def checkpoint_to_resume(directory: Path) -> Checkpoint | None:
    """The checkpoint that the run in `directory` goes on from; None: it begins at tick 0.

    Raises:
        CheckpointError: there are only damaged ones, or one that this version cannot read.
    """
    folder = directory / FOLDER
    if not checkpoint_paths(folder):
        _log.warning("%s has no checkpoint yet: it begins again at tick 0", directory)
        return None
    found = newest_checkpoint(folder)
    try:
        state = msgspec.convert(found.state, _LoopState)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"{found.path} must be of a training of text", got=str(error)
        ) from None
    changed = [
        f"{name} {before}, now {now}"
        for name, now in describe_machine().items()
        if (before := state.machine.get(name, now)) != now
    ]
    if changed:
        _log.warning(
            "the run goes on, but not bit for bit as it would have: %s",
            "; ".join(changed),
        )
    return found


def check_same_config(found: Checkpoint, config: TrainConfig) -> None:
    """Refuse a checkpoint that came from another run.

    Raises:
        CheckpointError: it was made with another config.
    """
    made = found.state.get("config")
    if made is None:  # an older checkpoint
        return
    free = FREE_ON_RESUME | {"text.data"}
    differing = differences(to_plain(from_plain(made)), to_plain(config), free=free)
    if differing:
        names = ", ".join(one.partition(":")[0] for one in differing)
        raise CheckpointError(
            f"{found.path} must be a checkpoint of this run",
            got=f"one that was made with another config ({names})",
            fix="put the run's own checkpoints back",
        )


def check_text_is_there(sources: Sequence[str]) -> None:
    """Say of a run's text that has moved how it is found again.

    Raises:
        DataError: a file or folder that does not exist.
    """
    missing = [each for each in sources if not glob.has_magic(each) and not Path(each).exists()]
    if missing:
        raise DataError(
            "a resumed run must find its text",
            got=f"{missing[0]!r}, which matches nothing",
            fix="name with --data the place where it is now",
        )


def describe_machine() -> dict[str, str | int]:
    """What rounding depends on, beside the config."""
    return {
        "processor": describe_host()["processor"],
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def check_same_text(found: Checkpoint, text: TextDataset) -> None:
    """Refuse to go on with other text than the run had.

    Raises:
        DataError: the tokens differ.
    """
    if found.state["text"] != text.sha256:
        raise DataError(
            "a resumed run must read the text it was begun with",
            got="tokens with another SHA-256: it has changed, or was tokenized by an older version",
            fix="put the original files back or name them with --data, or start a new run",
        )
