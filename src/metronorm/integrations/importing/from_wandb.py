"""Runs of Weights & Biases: its offline `.wandb` files, and histories that were exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import DataError
from metronorm.integrations.importing.rows import Rows, folder_names
from metronorm.integrations.importing.wandb_file import WandbLog
from metronorm.integrations.importing.wandb_history import read_history
from metronorm.integrations.importing.writing import Imported, new_runs, readable, write_run

if TYPE_CHECKING:
    import os


def import_wandb(source: str | os.PathLike[str], directory: str | os.PathLike[str]) -> list[Path]:
    """Make runs of what Weights & Biases keeps or exports.

    Args:
        source: a `.wandb` file of a run, a directory with such files in it or below (`wandb/`), or
            the exported history of a run, with a column `_step`: CSV, JSON (records, columns or
            lines), Parquet, or a directory with the parts of it in Parquet.
        directory: where the run is made, a new one; of several runs, each in a directory below
            that has its name.

    Returns:
        Directories of the runs.

    Rows of a step are one record; its time is `_timestamp`, and its `wall_ns` is the time since the
    record before. A resumed run whose steps go back is a new attempt. What was sampled of the
    machine becomes resources, or an event `system` where a run has no name for it.

    Raises:
        DataError: none of these, damaged, or without numbers.
        RunError: `directory` is not empty or cannot be written.
        MissingDependencyError: the file is a `.wandb` file, and wandb is not installed.
    """
    source, directory = Path(source), Path(directory)
    if not source.exists():
        raise DataError("a W&B run to import must exist", got=f"no {source}")
    logs = [source] if source.suffix == ".wandb" else sorted(source.rglob("*.wandb"))
    with readable(source):
        runs = _read_logs(logs, source) if logs else [read_history(source)]
    made = []
    with new_runs(directory) as aside:
        names = folder_names([run.name or "run" for run in runs])
        for run, name in zip(runs, names, strict=True):
            if len(runs) == 1:
                write_run(run, aside, run.name or directory.name)
                made.append(directory)
            elif run.history.attempts:
                write_run(run, aside / name, name)
                made.append(directory / name)
        if not made:
            raise DataError("there must be numbers to import", got=f"none in {source}")
    return made


def _read_logs(paths: list[Path], source: Path) -> list[Imported]:
    """Runs by the identity that W&B gave them; a resumed one is in several files."""
    read = [WandbLog(path) for path in paths]
    by_identity: dict[str, list[WandbLog]] = {}
    for log in sorted(read, key=lambda log: log.began_ns):
        by_identity.setdefault(log.identity, []).append(log)
    runs = []
    for logs in by_identity.values():
        run = Imported("wandb", logs[0].path if len(logs) == 1 else source, end=logs[-1].end)
        rows = Rows(run)
        for log in logs:
            run.name = run.name or log.name
            run.host = run.host or log.host
            run.config.update(log.config)
            run.events += log.events
            run.samples += log.samples
            run.notices += log.notices
            for step, time_ns, row in log.rows:
                rows.add(step, time_ns, row)
            rows.end_stretch()
        rows.finish()
        runs.append(run)
    return runs
