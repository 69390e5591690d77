"""Trainings that are killed, again and again, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from metronorm.checkpoints import checkpoint
from metronorm.checkpoints.folder import checkpoint_paths
from metronorm.runs import open_run
from metronorm.store.unsealed_lines import read_tape

if TYPE_CHECKING:
    import random


def check_checkpoints(run: Path) -> None:
    """Raise CheckpointError for one that is not whole."""
    for path in checkpoint_paths(run / "checkpoints"):
        checkpoint.open_checkpoint(path)


def _lives(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while
        return False


def _being_written(folder: Path) -> bool:
    try:
        return any(folder.glob(".tick-*.tmp/*"))
    except FileNotFoundError:  # it was renamed under our eyes
        return False


class Zygote:
    """Forks trainings out of one process that has torch loaded; to be used by `with`.

    Args:
        module: whose `training(kind, base)` gives a task and a config.
    """

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py")), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def training(self, kind: str, base: Path) -> Trainings:
        """Of this kind; what it needs is in the folder `base`."""
        return Trainings(self, kind, base)

    def begin(self, kind: str, base: Path, run: Path, how: str) -> int:
        """The number of the process."""
        assert self._process.stdin is not None
        print(kind, base, run, how, sep="\t", file=self._process.stdin, flush=True)
        return self._answer("pid")

    def end(self) -> int:
        """Its exit code, when it has ended."""
        return self._answer("code")

    def _answer(self, word: str) -> int:
        assert self._process.stdout is not None
        first, number = self._process.stdout.readline().split()
        assert first == word
        return int(number)


class Trainings:
    """Of one kind, each in a run of its own; `how` it begins is "new" or "resume"."""

    def __init__(self, zygote: Zygote, kind: str, base: Path) -> None:
        self._zygote, self._kind, self._base = zygote, kind, base

    def run(self, run: Path, how: str) -> int:
        """The exit code."""
        self._zygote.begin(self._kind, self._base, run, how)
        return self._zygote.end()

    def killed(
        self, run: Path, how: str, chance: random.Random, *, last: int = 40, while_writing: bool
    ) -> tuple[int, bool]:
        """Kill it after a random tick of this attempt, before its tick `last`.

        With `while_writing` it is killed when a checkpoint is seen being written, after that tick.

        Returns:
            Its exit code, and whether a checkpoint was being written.
        """
        pid = self._zygote.begin(self._kind, self._base, run, how)
        target = chance.randrange(1, last)
        folder = run / "checkpoints"
        met = False
        while _lives(pid):
            done = sum(
                len(read_tape(tape, "ticks", open_run(run).info.id)[1].whole)
                for tape in sorted(run.glob("ticks/attempt=*/rank=0"))[-1:]
            )
            met = while_writing and _being_written(folder)
            if done >= target and (met or not while_writing):
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.001)  # a busy loop takes the processor from what it watches
        return self._zygote.end(), met
