"""Sealing: finished stretches of tape become Parquet parts, columns by name.

    _live.jsonl → _part-00000.jsonl → part-00000.parquet

Each arrow is one rename, and the lines are removed after the Parquet file is there, so at every
instant each tick is there once: a part that has a Parquet file is read from it, any other from its
lines. Damaged lines are kept in `_part-00000.damaged`.

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
from metronorm.store.parquet_parts import BROKEN, is_readable, looks_whole, out_of_memory, scan
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

# the second version of the encodings: half the size, and twice as fast to read
FORMAT = "format parquet, parquet_version v2, compression zstd"


def seal_run(directory: Path) -> int:
    """Seal all that is finished of a run; how many parts were made.

    What a dead process has left in memory on this machine is put on its tape first. A tape that is
    being written keeps its live lines. A part that cannot be read is put aside as `.broken`.

    Raises:
        RunError: no run there, or one of a newer schema.
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
                if not _holds(part):
                    aside = part.rename(part.with_name(f"_{part.name}{BROKEN}"))
                    _log.warning("%s cannot be read; it is kept as %s", part, aside.name)
    return made


def recover_all() -> None:
    """Put on their tapes what dead processes have left in this machine's memory."""
    for ring, folder in abandoned_rings():
        # what cannot be written now stays where it is
        with contextlib.suppress(OSError, MetronormError):
            tape = Tape(folder)
            try:
                _, identity, kind, *_ = ring.name.split("-")
                recover(folder, tape, kind, identity)
            finally:
                tape.close()


def recover(folder: Path, tape: Tape, kind: str, identity: str) -> None:
    """Put on a dead process's tape what is in its ring."""
    with abandoned_ring(tape_ring(folder, kind, identity), folder) as ring:
        if not ring:
            return
        live = folder / LIVE
        there, late = Lines(), Lines()
        there.add(live.read_bytes(), kind)
        late.add(ring, kind)
        known = set(there.whole)
        fresh = b"".join(line for line in late.whole if line not in known)
        if there.torn:  # the whole line is in the ring
            tape.cut(len(there.torn))
        if tape.append(fresh) < len(fresh):
            raise tape.last_error or OSError("the tape took only a part")


def seal_tape(folder: Path) -> int:
    """Seal all of a tape that nobody writes any more; how many parts were made."""
    finish_tape(folder)
    return seal_parts(folder, folder.parent.parent.name)


def finish_tape(folder: Path) -> int:
    """Let all of a tape that nobody writes any more be sealed; how many bytes of lines that is."""
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
    """Seal the finished stretches of a tape; how many parts were made."""
    made = 0
    for path in sorted(folder.glob("_part-*.jsonl")):
        if not path.is_file():  # a pipe would be waited for
            continue
        if not _holds(sealed_as(path)):
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


def _holds(part: Path) -> bool:
    """Whether a part is there, as after sealing that was cut short, and can be read."""
    if not looks_whole(part):
        return False
    with connect(threads=1) as connection:
        return is_readable(connection, part)


def _seal(path: Path, kind: str) -> None:
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
            # (what is sorted is narrow: the arrays of the lines)
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
    """Seal the finished stretches of tapes in a process of its own; its number.

    Sealing takes time and memory, of which the training thread spends none.

    Raises:
        OSError: it cannot be begun.
    """
    return spawn(
        sys.executable,
        "-P",  # a module in the working folder is not the one that is meant
        "-m",
        "metronorm.store.sealing",
        *map(str, folders),
    )


def main(argv: list[str]) -> int:
    """Seal the finished stretches in some folders."""
    os.nice(10)
    for folder in map(Path, argv):
        with _in_turn(folder):
            seal_parts(folder, folder.parent.parent.name)
    return 0


@contextlib.contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """Wait for the process that seals a folder already: two would do the same work."""
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
