"""Runs as files of other tools: TensorBoard's event files, CSV and Parquet.

What is exported is the effective history of a run: each tick once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import duckdb

from metronorm.errors import ConfigError, RunError
from metronorm.files import directory_aside, file_aside, remove_directory
from metronorm.integrations.event_protos import write_events
from metronorm.runs import Run, open_run

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

Kind = Literal["auto", "tensorboard", "csv", "parquet"]


def export_run(
    run: Run | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    kind: Kind = "auto",
    overwrite: bool = False,
) -> None:
    """Write a run in the form that the ending of `target` tells: `.csv`, `.parquet`, none: events.

    Raises:
        ConfigError: another ending, which is one of a file, and no `kind`.
        RunError: no such run, or `target` is there already or cannot be written.
        MissingDependencyError: tensorboard is needed and not installed.
    """
    chosen = _kind(Path(target)) if kind == "auto" else kind
    _EXPORTS[chosen](run, target, overwrite=overwrite)


def _kind(target: Path) -> Literal["tensorboard", "csv", "parquet"]:
    ending = target.suffix.lower()
    if ending == ".csv":
        return "csv"
    if ending == ".parquet":
        return "parquet"
    if ending[1:2].isalpha() and not target.is_dir():  # (not that of `lr=0.1`)
        raise ConfigError(
            "an export ends in .csv or .parquet, or is a directory for TensorBoard's event files",
            got=str(target),
            fix="one of these endings or none, or --format",
        )
    return "tensorboard"


def export_csv(
    run: Run | str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the ticks of a run as CSV, columns as in `run.ticks()`; missing values are empty.

    Raises:
        RunError: no such run, or `path` is there already or cannot be written.
    """
    relation = _opened(run).ticks().relation
    _write(Path(path), lambda aside: relation.write_csv(str(aside)), overwrite)


def export_parquet(
    run: Run | str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the ticks of a run as Parquet, columns as in `run.ticks()`.

    Raises:
        RunError: no such run, or `path` is there already or cannot be written.
    """
    relation = _opened(run).ticks().relation
    _write(
        Path(path),
        lambda aside: relation.write_parquet(str(aside), compression="zstd"),
        overwrite,
    )


def export_tensorboard(
    run: Run | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write a run as TensorBoard's event files.

    Args:
        run: the run or its directory.
        directory: a new one. Of a run with several ranks, each is in a directory of its own there,
            `rank=0` and so on.
        overwrite: replace a directory that holds nothing but event files.

    Each metric is a tag, and so are `phase/NAME_seconds`, `tick/wall_seconds` and
    `tick/gc_seconds`; histograms and texts on record come along, and name and config of the run as
    the text `metronorm/run`. Scalars are in single precision, as TensorBoard shows no other; where
    that rounds, all digits are beside them, and `import_tensorboard` makes the run of it again.

    Raises:
        RunError: no such run, or `directory` is there already or cannot be written.
        MissingDependencyError: tensorboard is not installed.
    """
    run, directory = _opened(run), Path(directory)
    if directory.exists():
        files = [path for path in directory.rglob("*") if not path.is_dir()]
        events = all("tfevents" in path.name for path in files)
        if not (directory.is_dir() and (not files or (overwrite and events))):
            raise _taken(directory, "another one, or overwrite event files with --overwrite")
    ranks = [row[0] for row in run.ticks().sql("select distinct rank from ticks").fetchall()]
    try:
        with directory_aside(directory) as aside:
            for rank in sorted(ranks):
                write_events(run, rank, aside if len(ranks) == 1 else aside / f"rank={rank}")
            if directory.exists():
                remove_directory(directory)
    except OSError as error:
        raise _unwritable(directory, error.strerror or error) from None


_EXPORTS = {"tensorboard": export_tensorboard, "csv": export_csv, "parquet": export_parquet}


def _opened(run: Run | str | os.PathLike[str]) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _write(path: Path, write: Callable[[Path], None], overwrite: bool) -> None:
    if path.is_dir() or (path.exists() and not overwrite):
        raise _taken(path, "another one, or --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with file_aside(path) as aside:
            write(aside)
    except (OSError, duckdb.IOException) as error:
        raise _unwritable(path, error) from None


def _taken(path: Path, fix: str) -> RunError:
    return RunError("an export needs a place of its own", got=f"{path}, which is there", fix=fix)


def _unwritable(path: Path, error: object) -> RunError:
    return RunError("an export must be writable", got=f"{path}: {error}")
