"""Imports runs of Weights & Biases: its offline `.wandb` files, and exported histories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.errors import DataError
from metronorm.integrations.axes import step_of, time_of
from metronorm.integrations.importing.history import Event
from metronorm.integrations.importing.rows import Rows
from metronorm.integrations.importing.sources import find_files, read_each, readable
from metronorm.integrations.importing.wandb_file import OWN, WandbLog
from metronorm.integrations.importing.wandb_history import read_history
from metronorm.integrations.importing.writing import (
    Imported,
    folder_names,
    with_values,
    write_runs,
)

if TYPE_CHECKING:
    import os


def import_wandb(source: str | os.PathLike[str], directory: str | os.PathLike[str]) -> list[Path]:
    """Make runs from files of Weights & Biases.

    Args:
        source: a `.wandb` file of a run, a directory with such files in it or below (`wandb/`), or
            the exported history of a run with a column `_step`: CSV, JSON (records, columns or
            lines), Parquet, or a directory with its parts in Parquet.
        directory: a new directory for the run. If there are several runs, each gets a directory in
            it, with the run's name.

    Returns:
        The runs' directories.

    The rows of a step are one record. Its time is `_timestamp` (seconds or a finer unit since 1970,
    or a date), and its `wall_ns` is the time since the record before. If the steps of a resumed run
    go back, a new attempt begins. Samples of the machine become resources, or an event `system` if
    a run has no name for them. Texts become events. The summary becomes the event `summary`, or the
    only tick of a run without history. What cannot be imported is counted in an event `notice`.

    Raises:
        DataError: the source is none of these, or has no numbers that can be read.
        RunError: `directory` is not empty or cannot be written.
        MissingDependencyError: the file is a `.wandb` file, and wandb is not installed.
    """
    source, directory = Path(source), Path(directory)
    if not source.exists():
        raise DataError("a W&B run to import must exist", got=f"no {source}")
    is_log = source.suffix == ".wandb" and source.is_file()
    logs = [source] if is_log else find_files(source, "*.wandb")
    with readable(source):
        runs, notices = _read_logs(logs, source) if logs else ([read_history(source)], [])
    event_files = [] if source.is_file() else find_files(source, "*tfevents*")
    if event_files:
        notices.append(
            f"TensorBoard's event files left out: {len(event_files):,}, such as "
            f"{event_files[0].name}; --format tensorboard imports them"
        )
    full, about_empty = with_values(runs)
    notices += about_empty
    if not full:
        raise DataError(
            "there must be numbers to import",
            got=f"none in {source}" + (f" ({notices[0]})" if notices else ""),
        )
    full[0].notices += notices
    names = folder_names(full) if len(runs) > 1 else [""]
    return write_runs(dict(zip(map(Path, names), full, strict=True)), directory)


def _read_logs(paths: list[Path], source: Path) -> tuple[list[Imported], list[str]]:
    """Read the runs in `.wandb` files; return them, and notices about files that hold none.

    A resumed run is in several files, which have the same identity.
    """
    read, notices = read_each(paths, WandbLog)
    by_identity: dict[str, list[WandbLog]] = {}
    for log in sorted(read, key=lambda log: log.began_ns):
        by_identity.setdefault(log.identity, []).append(log)
    runs = []
    for logs in by_identity.values():
        run = Imported("wandb", logs[0].path if len(logs) == 1 else source, end=logs[-1].end)
        rows = Rows(run)
        summary: dict[str, Any] = {}
        for log in logs:
            run.name = run.name or log.name
            run.host = run.host or log.host
            run.config.update(log.config)
            run.events += log.events
            run.samples += log.samples
            run.notices += log.notices
            summary |= log.summary
            for step, time_ns, row in log.rows:
                rows.add(step, time_ns, row)
            rows.end_stretch()
        _add_summary(run, rows, summary, logs[-1].began_ns)
        rows.finish()
        runs.append(run)
    return runs, notices


def _add_summary(run: Imported, rows: Rows, summary: dict[str, Any], began_ns: int) -> None:
    """Add the values that W&B shows in its tables: as an event, or as a tick if it has no other."""
    values = {name: value for name, value in summary.items() if name not in OWN}
    if not values:
        return
    moment = time_of(summary.get("_timestamp"))
    time_ns = began_ns if moment is None else moment[0]
    if run.history.attempts:
        last_ns = run.history.times(len(run.history.attempts) - 1)[1]
        run.events.append(Event("summary", max(time_ns, last_ns), {"values": values}))
        return
    rows.add(step_of(summary.get("_step")) or 0, time_ns, values)
    run.notices.append("the run has a summary and no history: the summary is its only tick")
