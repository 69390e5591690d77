"""Sealing: finished stretches of tape become Parquet parts, with a column for each name.

| state of a stretch | its files | read from | next step |
| --- | --- | --- | --- |
| live | `_live.jsonl` | the lines | `Tape.rotate` renames the file |
| finished | `_part-00000.jsonl` | the lines | its Parquet is written aside and renamed |
| sealed | both | the Parquet | the lines are removed |
| done | `part-00000.parquet` | the Parquet | |

Every step is one rename or one removal, and a stretch with a Parquet part is read from there only.
So at every instant each tick is read once, and a sealing that was killed is done again from the
state that it left. The records of the part are counted before the lines are removed. Two processes
may seal one folder: both write the same part, and the last rename wins.

Damaged lines are kept in `_part-00000.damaged`. A Parquet part that cannot be read, and has no
lines beside it, is renamed to `_part-00000.parquet.broken`.

    python -m metronorm.store.sealing FOLDER [FOLDER ...]
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.errors import MetronormError, RunError
from metronorm.files import file_aside, remove_leftovers, write_atomic
from metronorm.store.engine import connect
from metronorm.store.parquet_parts import (
    BROKEN,
    has_parquet_magic,
    is_readable,
    out_of_memory,
    scan,
)
from metronorm.store.ring import abandoned_ring, abandoned_rings
from metronorm.store.run_directory import read_run_info, tape_folders
from metronorm.store.schema import KINDS
from metronorm.store.spawn import spawn
from metronorm.store.sql_columns import literal, load_lines, select
from metronorm.store.tape import LIVE, NEXT, Tape
from metronorm.store.unsealed_lines import Lines, sealed_as, tape_ring, unsealed_files

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger("metronorm")

# version 2 of the encodings halves the size and the time to read
FORMAT = "format parquet, parquet_version v2, compression zstd"


def seal_run(directory: Path) -> int:
    """Seal all finished stretches of a run; return how many parts were made.

    Lines that a dead process left in memory of this machine are first put on its tape. A tape that
    is being written keeps its live lines.

    Raises:
        RunError: there is no run, or it has a newer schema.
        OSError: the directory is not writable, or the disk is full; nothing is lost.
    """
    identity = read_run_info(directory).id
    made = 0
    for kind in KINDS:
        for folder in tape_folders(directory, kind):
            try:
                tape = Tape(folder)
                try:
                    recover(folder, tape, kind, identity)
                finally:
                    tape.close()
                made += seal_tape(folder)
            except RunError:  # it is being written
                made += seal_parts(folder, kind)
            for part in folder.glob("part-*.parquet"):
                if not _is_sealed_part(part):
                    aside = part.rename(part.with_name(f"_{part.name}{BROKEN}"))
                    _log.warning("%s cannot be read; it is kept as %s", part, aside.name)
    return made


def recover_all() -> None:
    """Put lines that dead processes left in memory of this machine on their tapes, of any run."""
    for ring, folder in abandoned_rings():
        # lines that cannot be written now stay in their ring
        with contextlib.suppress(OSError, MetronormError):
            tape = Tape(folder)
            try:
                _, identity, kind, *_ = ring.name.split("-")
                recover(folder, tape, kind, identity)
            finally:
                tape.close()


def recover(folder: Path, tape: Tape, kind: str, identity: str) -> None:
    """Put the lines in the ring of a dead process on its tape, and remove the ring.

    Args:
        folder: the folder of the tape.
        tape: the tape, opened by this process.
        kind: the kind of its lines.
        identity: the `id` of the run.

    Raises:
        OSError: the tape did not take all lines; the ring stays.
    """
    with abandoned_ring(tape_ring(folder, kind, identity), folder) as ring:
        if not ring:
            return
        on_tape, in_ring = Lines(), Lines()
        on_tape.add((folder / LIVE).read_bytes(), kind)
        in_ring.add(ring, kind)
        known = set(on_tape.whole)
        only_in_ring = b"".join(line for line in in_ring.whole if line not in known)
        if on_tape.torn:  # the whole of this line is in the ring
            tape.cut(len(on_tape.torn))
        if tape.append(only_in_ring) < len(only_in_ring):
            raise tape.last_error or OSError("the tape took only a part")


def seal_tape(folder: Path) -> int:
    """Seal all lines of a tape that no process writes any more; return how many parts were made.

    Raises:
        RunError: a process writes the tape.
        OSError: the directory is not writable, or the disk is full; nothing is lost.
    """
    finish_tape(folder)
    return seal_parts(folder, folder.parent.parent.name)


def finish_tape(folder: Path) -> int:
    """Finish the last stretch of a tape that no process writes any more.

    Returns:
        The bytes of all lines of the tape that are not sealed.

    Raises:
        RunError: a process writes the tape.
        OSError: the directory is not writable.
    """
    live = folder / LIVE
    if live.is_file():
        tape = Tape(folder)
        try:
            if tape.size:
                tape.rotate()
            live.unlink()
        finally:
            tape.close()
        (folder / NEXT).unlink(missing_ok=True)
    return sum(path.stat().st_size for path in unsealed_files(folder))


def seal_parts(folder: Path, kind: str) -> int:
    """Seal the finished stretches of a tape; return how many parts were made.

    Args:
        folder: the folder of the tape.
        kind: the kind of its lines.

    Raises:
        OSError: the directory is not writable, or the disk is full; nothing is lost.
    """
    made = 0
    for path in sorted(folder.glob("_part-*.jsonl")):
        if not path.is_file():  # opening a named pipe would wait
            continue
        if not _is_sealed_part(sealed_as(path)):
            try:
                _seal(path, kind)
            except FileNotFoundError:
                if path.exists():
                    raise
                continue  # another process has sealed it
            made += 1
        path.unlink(missing_ok=True)
    remove_leftovers(folder)
    return made


def _is_sealed_part(part: Path) -> bool:
    """Whether there is such a part, and all of it can be read."""
    return has_parquet_magic(part) and is_readable(part)


def _seal(path: Path, kind: str) -> None:
    """Write the Parquet part of a finished stretch; the lines stay."""
    import duckdb

    lines = Lines()
    lines.add(path.read_bytes(), kind)
    if lines.damaged or lines.torn:
        write_atomic(path.with_suffix(".damaged"), b"\n".join([*lines.damaged, lines.torn]))
    with (
        connect(threads=1) as connection,
        file_aside(sealed_as(path)) as aside,
    ):
        try:
            columns = load_lines(connection, kind, [({}, lines.whole)], "lines")
            # (sorted before the arrays become columns: the rows are narrow then)
            query = f"select {select(columns)} from (from lines order by tick, time_ns)"
            connection.execute(f"copy ({query}) to {literal(str(aside))} ({FORMAT})")
            counted = connection.sql(f"select count(*) from {scan([aside])}").fetchall()
        except duckdb.OutOfMemoryException as error:
            raise out_of_memory(error) from None
        except duckdb.Error as error:
            raise OSError(f"{path} cannot be sealed: {error}") from None
        if counted != [(len(lines.whole),)]:
            raise OSError(f"{path} has {len(lines.whole)} records, its Parquet part {counted}")


def start_sealing(*folders: Path) -> int:
    """Start a process that seals the finished stretches of tapes; return its number.

    So sealing takes neither time nor memory of the process that trains.

    Args:
        folders: the folders of the tapes.

    Raises:
        OSError: the process cannot be started.
    """
    return spawn(
        sys.executable,
        "-P",  # a file `metronorm.py` in the working directory must not be imported
        "-m",
        "metronorm.store.sealing",
        *map(str, folders),
    )


def main(argv: list[str]) -> int:
    """Seal the finished stretches in the folders that `argv` names, at low priority."""
    os.nice(10)
    for folder in map(Path, argv):
        with _one_at_a_time(folder):
            seal_parts(folder, folder.parent.parent.name)
    return 0


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the folder: two would do the same work."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
