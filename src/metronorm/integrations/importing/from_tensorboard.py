"""Imports TensorBoard's event files as runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import DataError
from metronorm.integrations.axes import LAST, step_of
from metronorm.integrations.importing.event_log import Log, read_log
from metronorm.integrations.importing.sources import find_files, left_out_notice
from metronorm.integrations.importing.writing import Imported, new_runs, write_run
from metronorm.integrations.names import BEATS_TAG, GC_TAG, PHASE_TAG, WALL_TAG

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from metronorm.store.schema import TickRecord


def import_tensorboard(
    source: str | os.PathLike[str], directory: str | os.PathLike[str]
) -> list[Path]:
    """Make runs from TensorBoard's event files, with every scalar in them.

    Args:
        source: an event file, or a directory with event files in it or below. As in TensorBoard,
            each directory with event files is a run; only the directories that `add_scalars` made
            become metrics `MAIN/TAG` of the run above them.
        directory: a new directory for the run of `source` itself; runs of directories below get
            directories of the same names in it.

    Returns:
        The runs' directories.

    A restart is a later file with steps that go back; it begins a new attempt. What it purges
    (`purge_step`) is left out unless later steps replace it. The scalars of a step are one record.
    Its time is the time of its first scalar, and its `wall_ns` is the time since the record before.
    Hyperparameters become the config; histograms and texts become events. A file or a record that
    cannot be read is left out, and counted in an event `notice`.

    Raises:
        DataError: there are no event files, or they have no scalars that can be read.
        RunError: `directory` is not empty or cannot be written.
        MissingDependencyError: tensorboard is not installed.
    """
    source, directory = Path(source), Path(directory)
    folders = _find(source)
    # The last run that was found is written one step later: it may get `notices`, which are about
    # directories without a run.
    found: list[tuple[Imported, Path]] = []
    made: list[Path] = []
    notices: list[str] = []
    with new_runs(directory) as aside:

        def write() -> None:
            for run, folder in found:
                name = directory.name if folder == Path() else folder.as_posix()
                write_run(run, aside / folder, name)
                made.append(directory / folder)
            found.clear()

        for tree in _trees(folders):
            logs = {folder: read_log(folders[folder]) for folder in tree}
            _join_add_scalars(logs)
            for folder, log in logs.items():
                run = _arrange(log, source / folder if source.is_dir() else source)
                if run.history.attempts:
                    write()
                    found.append((run, folder))
                else:
                    notices += [f"{folder.as_posix()}: {notice}" for notice in run.notices]
        for run, _ in found:
            run.notices += notices
        write()
        if not made:
            raise DataError(
                "there must be readable files with scalars to import",
                got=f"none in {source}" + (f" ({notices[0]})" if notices else ""),
            )
    return made


def _find(source: Path) -> dict[Path, list[Path]]:
    """Return the event files by their directory, relative to `source`; outer directories first."""
    if source.is_file():
        return {Path(): [source]}
    found: dict[Path, list[Path]] = {}
    for path in find_files(source, "*tfevents*"):
        found.setdefault(path.parent.relative_to(source), []).append(path)
    if not found:
        raise DataError(
            "a TensorBoard log is a directory with event files (*tfevents*)",
            got=f"{source}, which has none" if source.exists() else f"no {source}",
        )
    return dict(sorted(found.items(), key=lambda item: item[0].parts))


def _trees(folders: dict[Path, list[Path]]) -> Iterator[list[Path]]:
    """Yield directories together with those below them, which may be parts of the same run."""
    tree: list[Path] = []
    for folder in folders:
        if tree and not folder.is_relative_to(tree[0]):
            yield tree
            tree = []
        tree.append(folder)
    yield tree


def _join_add_scalars(logs: dict[Path, Log]) -> None:
    """Move values that `add_scalars` wrote to a directory for each tag back to their run."""
    for folder in list(logs):
        above = next((parent for parent in folder.parents if parent in logs), None)
        log = logs[folder]
        if above is None or folder == above or len(log.tags) != 1 or log.events or log.config:
            continue
        (main,) = log.tags
        prefix = main.replace("/", "_") + "_"
        below = folder.relative_to(above).as_posix()
        tag = f"{main}/{below.removeprefix(prefix)}"
        whole = logs[above]
        if below.startswith(prefix) and tag not in whole.tags:
            for stretch in log.stretches:
                stretch.values = [(*value[:2], tag, value[3]) for value in stretch.values]
            whole.stretches += log.stretches
            whole.stretches.sort(key=lambda stretch: stretch.time_ns)
            whole.tags.add(tag)
            whole.notices += _notices(log)
            whole.host = whole.host or log.host
            del logs[folder]


def _notices(log: Log) -> list[str]:
    return [*log.notices, *log.times.notices(), *left_out_notice(log.left_out)]


def _arrange(log: Log, source: Path) -> Imported:
    run = Imported(
        "tensorboard",
        source,
        config=log.config,
        events=log.events,
        notices=_notices(log),
        host=log.host,
    )
    latest = 0
    for stretch in log.stretches:
        is_parallel = stretch.purge is None and stretch.time_ns < latest
        run.history.extend(stretch.values, is_parallel=is_parallel, purge=stretch.purge)
        latest = max([latest, *(value[1] for value in stretch.values[-1:])])
    if log.run is not None:
        run.name, run.config = log.name, log.run
        run.restore = _restore
    return run


def _restore(record: TickRecord) -> None:
    """Turn the scalars that `export_tensorboard` wrote beside metrics into the record's fields."""
    metrics = record.metrics
    for found in [PHASE_TAG.fullmatch(name) for name in metrics]:
        if found and (ns := _nanoseconds(metrics[found[0]])) is not None:
            del metrics[found[0]]
            record.phases[found[1]] = ns
    for tag, name in ((WALL_TAG, "wall_ns"), (GC_TAG, "gc_ns")):
        if (ns := _nanoseconds(metrics.get(tag))) is not None:
            del metrics[tag]
            setattr(record, name, ns)
    beats = step_of(metrics.get(BEATS_TAG))
    if beats is not None and beats > 0:
        del metrics[BEATS_TAG]
        record.beats = beats


def _nanoseconds(seconds: float | str | None) -> int | None:
    """Return seconds in nanoseconds; None for NaN and the like, which stay metrics."""
    if not isinstance(seconds, float) or not abs(seconds * 1e9) < LAST:
        return None
    return round(seconds * 1e9)
