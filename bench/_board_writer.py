"""Writes a run until it is ended, for a board to look at; each in a process of its own.

python bench/_board_writer.py RUN RATE METRICS   # ticks per second
python bench/_board_writer.py RUN train THREADS  # as fast as a small MLP is trained by torch
"""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from metronorm.clock import Clock
from metronorm.store.sealing import seal_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

WIDTH, BATCH = 512, 64
PATIENCE_SECONDS = 60.0


@contextlib.contextmanager
def writing(
    commands: Sequence[tuple[Path, float | str, int]],
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Writers with these arguments, from when each has a tape until the block ends."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            words = [sys.executable, __file__, *map(str, command)]
            started.append(subprocess.Popen(words))
        until = time.monotonic() + PATIENCE_SECONDS
        for directory, *_ in commands:
            while not (directory / "run.json").exists():
                if time.monotonic() > until:
                    raise TimeoutError(f"{directory} was not begun")
                time.sleep(0.05)
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGINT)
        for process in started:
            process.wait()


def times(directory: Path) -> NDArray[Any]:
    """When each tick of a run ended, in seconds since 1970; the first is tick 1."""
    seal_run(directory)
    parts = f"read_parquet('{directory}/ticks/*/*/*.parquet')"
    with duckdb.connect() as connection:
        query = f"select time_ns / 1e9 from {parts} order by tick"
        return np.array(connection.execute(query).fetchall())[:, 0]


def write(directory: Path, rate: float, metrics: int) -> None:
    """Ticks at a rate: a sleep in a hundredth of a second, so many ticks one after another."""
    names = [f"metric_{number:02}" for number in range(1, metrics)]
    begun = time.monotonic()
    with Clock(directory, progress=False) as clock:
        for tick in clock.ticks(count(1)):
            with clock.phase("forward"):
                values = {name: math.sin(tick / 1000 + at) for at, name in enumerate(names)}
            clock.log(loss=1 + 3 / tick**0.5 + 0.1 * math.sin(tick), **values)
            ahead = begun + tick / rate - time.monotonic()
            if ahead > 0.01:
                time.sleep(ahead)


def train(directory: Path, threads: int) -> None:
    """A small MLP, without a pause."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs, labels = torch.randn(BATCH, WIDTH), torch.randint(10, (BATCH,))
    with Clock(directory, progress=False) as clock:
        for _ in clock.ticks(count(1)):
            with clock.phase("forward"):
                loss = nn.functional.cross_entropy(model(inputs), labels)
            with clock.phase("backward"):
                loss.backward()
            with clock.phase("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
            clock.log(loss=loss.item(), tokens=BATCH)


if __name__ == "__main__":
    where, how, number = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        if how == "train":
            train(Path(where), int(number))
        else:
            write(Path(where), float(how), int(number))
