"""Runs that are put away, brought back or deleted: whole directories are renamed, never copied."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from metronorm.errors import RunError
from metronorm.runs.reader import open_run
from metronorm.runs.state import run_state
from metronorm.store.run_directory import read_run_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

ARCHIVE = ".archive"  # hidden: patterns such as runs/*, and the board, pass over it
_BEING_WRITTEN = ("running", "running or killed")


def directories_of(paths: Iterable[Path]) -> list[Path]:
    """The directories of runs, absolute and each once.

    Raises:
        RunError: one is no run.
    """
    runs = list(dict.fromkeys(path.absolute() for path in paths))
    for run in runs:
        read_run_info(run)
    return runs


def check_ended(runs: Iterable[Path]) -> None:
    """Raise RunError if one of the runs is being written, or may be."""
    for path in runs:
        run = open_run(path)
        state = run_state(run, run.events())
        if state in _BEING_WRITTEN:
            raise RunError(
                "a run that is moved or deleted must have ended",
                got=f"{path}, which is {state}",
                fix="stop it; if its machine is gone, move or remove the directory yourself",
            )


def archive(runs: Sequence[Path]) -> dict[Path, Path]:
    """Move runs to the folder `.archive` beside them; where each of them is now.

    Raises:
        RunError: a run has not ended, is in an archive already, or has its name there; then none is
            moved. Or a folder may not be written.
    """
    for run in runs:
        if run.parent.name == ARCHIVE:
            raise RunError("a run is archived once", got=str(run), fix="--restore brings it back")
    return _move({run: run.parent / ARCHIVE / run.name for run in runs})


def restore(runs: Sequence[Path]) -> dict[Path, Path]:
    """Move runs from the folder `.archive` to the one that holds it; where each of them is now.

    Raises:
        RunError: a run has not ended, is not in an archive, or its name is taken; then none is
            moved. Or a folder may not be written.
    """
    for run in runs:
        if run.parent.name != ARCHIVE:
            raise RunError(f"a run to restore is in a folder {ARCHIVE}", got=str(run))
    return _move({run: run.parent.parent / run.name for run in runs})


def _move(places: dict[Path, Path]) -> dict[Path, Path]:
    check_ended(places)
    for there in places.values():
        if os.path.lexists(there):
            raise RunError(
                "the place of a run must be free", got=str(there), fix="rename one of the two"
            )
    for run, there in places.items():
        try:
            there.parent.mkdir(exist_ok=True)
            run.rename(there)
        except OSError as error:
            raise _failed(run, error) from None
    return places


def delete(runs: Sequence[Path]) -> None:
    """Delete runs. Each is renamed first, so that what an error leaves is no half of a run.

    Raises:
        RunError: a run has not ended, or is a link; then none is deleted. Or one cannot be deleted.
    """
    check_ended(runs)
    for run in runs:
        if run.is_symlink():
            raise RunError(
                "a run to delete is a directory",
                got=f"{run}, a link",
                fix=f"name the directory itself, {run.resolve()}",
            )
    for run in runs:
        hidden = run.with_name(f".deleted-{run.name}-{os.getpid()}")
        try:
            run.rename(hidden)
            shutil.rmtree(hidden)
        except OSError as error:
            raise _failed(run, error) from None


def _failed(run: Path, error: OSError) -> RunError:
    return RunError("the folder of a run must be writable", got=f"{run}: {error.strerror or error}")
