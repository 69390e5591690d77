"""Helpers that write tapes, rings and parts as clocks do, without a clock."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.runs import Run, open_run
from metronorm.store.ring import Ring, ring_path
from metronorm.store.run_directory import create_run, read_run_info, tape_folder
from metronorm.store.schema import TickRecord
from metronorm.store.tape import Tape, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Values = dict[str, float | str]


def new_run(run: Path) -> Path:
    """Make an empty run, and return its directory."""
    create_run(run, name=None, config={})
    return run


def line(tick: int, metrics: Values | None = None, **changes: Any) -> bytes:
    """The line of a tick, as a clock writes it."""
    usual: dict[str, Any] = {
        "time_ns": 1_800_000_000_000_000_000 + tick,
        "wall_ns": 3,
        "beats": 1,
        "phases": {"forward": 2, "unattributed": 1},
        "metrics": {"loss": 1 / tick} if metrics is None else metrics,
    }
    return encode(TickRecord(tick=tick, **(usual | changes)))


def write_tape(
    run: Path,
    *stretches: Iterable[bytes],
    kind: str = "ticks",
    attempt: int = 0,
    rank: int = 0,
) -> Path:
    """Write finished stretches and, last, the live one; return the folder of the tape."""
    folder = tape_folder(run, kind, attempt, rank)
    folder.mkdir(parents=True, exist_ok=True)
    tape = Tape(folder)
    for number, lines in enumerate(stretches):
        if number:
            tape.rotate()
        tape.append(*lines)
    tape.close()
    return folder


def write_ring(run: Path, folder: Path, *lines: bytes) -> Path:
    """Write a ring with lines that a killed process had not written to its tape of ticks."""
    path = ring_path(read_run_info(run).id, "ticks", 0, 0)
    ring = Ring(path, folder, 64 << 10)
    assert ring.shared
    assert all(map(ring.put, lines))
    ring.close(keep=True)
    return path


def numbers(run: Path | Run) -> list[int]:
    """The numbers of the ticks of a run, as `open_run` reads them."""
    read = open_run(run) if isinstance(run, Path) else run
    return [row["tick"] for row in read.ticks("full").rows()]


def files(folder: Path) -> list[str]:
    """The names of all files in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def until(condition: Callable[[], object]) -> None:
    """Wait until another thread or process makes this true; the test's timeout is the limit."""
    while not condition():
        threading.Event().wait(0.001)


def bits(values: Iterable[float | None]) -> list[bytes | None]:
    """Numbers that can be compared: here NaN equals NaN, and -0.0 differs from 0.0."""
    nan = struct.pack("d", float("nan"))
    return [
        None if value is None else nan if value != value else struct.pack("d", value)
        for value in values
    ]
