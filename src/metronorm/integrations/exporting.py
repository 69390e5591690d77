"""Writes runs as files of other tools: TensorBoard's event files, CSV and Parquet.

An export has the effective history of a run: each tick once.
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
    """Write a run for another tool.

    Args:
        run: a run or its directory.
        target: a new file or directory.
        kind: the format. "auto": by the ending of `target`, which is `.csv`, `.parquet`, or none
            for a directory of event files.
        overwrite: replace an existing target; a directory only if it holds nothing but event files.

    Raises:
        ConfigError: `kind` is "auto", and the target has the ending of another kind of file.
        RunError: there is no such run, or `target` exists already or cannot be written.
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
    if ending[1:2].isalpha() and not target.is_dir():  # the ending of `lr=0.1` is a number
        raise ConfigError(
            "an export ends in .csv or .parquet, or is a directory for TensorBoard's event files",
            got=str(target),
            fix="one of these endings or none, or --format",
        )
    return "tensorboard"


def export_csv(
    run: Run | str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the ticks of a run as CSV, with the columns of `run.ticks()`; missing values are empty.

    Raises:
        RunError: there is no such run, or `path` exists already or cannot be written.
    """
    ticks = _opened(run).ticks().relation
    _write(Path(path), lambda aside: ticks.write_csv(str(aside)), overwrite)


def export_parquet(
    run: Run | str | os.PathLike[str], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write the ticks of a run as Parquet, with the columns of `run.ticks()`.

    Raises:
        RunError: there is no such run, or `path` exists already or cannot be written.
    """
    ticks = _opened(run).ticks().relation
    _write(Path(path), lambda aside: ticks.write_parquet(str(aside), compression="zstd"), overwrite)


def export_tensorboard(
    run: Run | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write a run as TensorBoard's event files.

    Args:
        run: a run or its directory.
        directory: a new directory. If the run has several ranks, each gets its own directory in it:
            `rank=0` and so on.
        overwrite: replace a directory that holds nothing but event files.

    Each metric is a tag; other tags are `phase/NAME_seconds`, `tick/wall_seconds` and
    `tick/gc_seconds`. Histograms and texts of the run are exported too, and the run's name and
    config as the text `metronorm/run`. Scalars are in single precision, because TensorBoard shows
    no other. Where that rounds, all digits are stored beside them, so `import_tensorboard` makes
    the same run again.

    Raises:
        RunError: there is no such run, or `directory` exists already or cannot be written.
        MissingDependencyError: tensorboard is not installed.
    """
    run, directory = _opened(run), Path(directory)
    if directory.exists():
        files = [path for path in directory.rglob("*") if not path.is_dir()]
        events = all("tfevents" in path.name for path in files)
        if not (directory.is_dir() and (not files or (overwrite and events))):
            raise _taken(directory, "another one, or --overwrite, which replaces event files")
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
    return RunError("an export needs a new target", got=f"{path}, which exists", fix=fix)


def _unwritable(path: Path, error: object) -> RunError:
    return RunError("an export must be writable", got=f"{path}: {error}")
