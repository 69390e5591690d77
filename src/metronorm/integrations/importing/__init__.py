"""Imports runs of other trackers as runs of Metronorm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metronorm.errors import DataError
from metronorm.integrations.importing.from_tensorboard import import_tensorboard
from metronorm.integrations.importing.from_trackio import import_trackio
from metronorm.integrations.importing.from_wandb import import_wandb
from metronorm.integrations.importing.sources import find_files

if TYPE_CHECKING:
    import os

__all__ = ["import_run", "import_tensorboard", "import_trackio", "import_wandb"]

Kind = Literal["auto", "tensorboard", "wandb", "trackio"]


def import_run(
    source: str | os.PathLike[str], directory: str | os.PathLike[str], *, kind: Kind = "auto"
) -> list[Path]:
    """Make runs from what another tracker recorded.

    Args:
        source: a file or a directory.
        directory: a new directory for the run, or for the directories of several runs.
        kind: the tracker. "auto": by the names of the files.

    Returns:
        The runs' directories.

    Raises:
        DataError: the source does not exist, or has nothing that can be imported.
        RunError: `directory` is not empty or cannot be written.
        MissingDependencyError: a package that reads the source is not installed.
    """
    source = Path(source)
    if not source.exists():
        raise DataError("what is to be imported must exist", got=f"{source}, which does not exist")
    chosen = _kind(source) if kind == "auto" else kind
    return _IMPORTS[chosen](source, directory)


_IMPORTS = {
    "tensorboard": import_tensorboard,
    "wandb": import_wandb,
    "trackio": import_trackio,
}
_MARKS = {"tensorboard": "*tfevents*", "trackio": "*.db", "wandb": "*.wandb"}
_HISTORIES = ("*.csv", "*.json", "*.jsonl", "*.ndjson", "*.parquet")


def _kind(source: Path) -> str:
    """Return the kind of a source by the names of its files; two kinds are an error, no guess."""
    if source.is_file():
        found = [kind for kind, mark in _MARKS.items() if source.match(mark)]
        histories = any(map(source.match, _HISTORIES))
    else:
        files = {kind: find_files(source, mark) for kind, mark in _MARKS.items()}
        files["trackio"] = [path for path in files["trackio"] if path.parent == source]
        # W&B keeps event files that it has synchronised in the folder of the run.
        folders = {path.parent for path in files["wandb"]}
        files["tensorboard"] = [
            path for path in files["tensorboard"] if folders.isdisjoint(path.parents)
        ]
        found = [kind for kind, paths in files.items() if paths]
        histories = any(find_files(source, pattern) for pattern in _HISTORIES)
    if len(found) > 1:
        raise DataError(
            "what is to be imported must be of one kind",
            got=f"{source}, which has files of {' and '.join(found)}",
            fix="name a folder of one of them, or --format",
        )
    if not found and not histories:
        raise DataError(
            "what is to be imported must be TensorBoard's, W&B's or trackio's",
            got=f"{source}, whose name is none of theirs",
            fix="--format",
        )
    return found[0] if found else "wandb"
