"""Kill sealing at its first change to a file, then at its second, and so on, until one completes.

Each sealing is a forked process with its own run, BASE/0, BASE/1, ..., that looks as if its clock
was killed. At the end this script prints the number of sealings, and the exit code of the last.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import duckdb  # noqa: F401 - once, for all of them

from metronorm.store import ring
from metronorm.store.sealing import seal_run
from tests.store.stores import line, new_run, write_ring, write_tape

CHANGES = ("rename", "replace", "unlink", "ftruncate", "writev", "link", "fsync")


def prepare(run: Path) -> None:
    """Write ticks 1 to 6, and damaged lines between them.

    Ticks 1 and 2 are in a finished stretch, 3, 4 and a torn 5 on the live tape; 4, 5 and 6 are in
    the ring.
    """
    folder = write_tape(
        new_run(run),
        [line(1), b"\0garbage\n", line(2)],
        [line(3), b'{"tick":', b"\n", line(4), line(5)[:30]],
    )
    write_ring(run, folder, line(4), line(5), line(6))


def dying(change: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def instead(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if change is os_writev and sum(map(len, given[1])):
            left[0] -= 1
            if left[0] == 0:  # in the middle of it
                whole = b"".join(given[1])
                os_writev(given[0], [whole[: len(whole) // 2]])
                os.kill(os.getpid(), signal.SIGKILL)
        return change(*given, **named)

    return instead


os_writev = os.writev


def main() -> None:
    base = Path(sys.argv[1])
    shared = base / "shared"
    shared.mkdir()
    ring.shared_folder = lambda: shared
    number = 0
    while True:
        run = base / str(number)
        prepare(run)
        number += 1
        process = os.fork()
        if process == 0:
            left = [number]
            for name in CHANGES:
                setattr(os, name, dying(getattr(os, name), left))
            seal_run(run)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        if code != -signal.SIGKILL:
            print(number, code)
            return


main()
