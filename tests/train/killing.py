"""Trainings that are killed, again and again, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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
    """Forks trainings out of one process that has torch loaded.

    Args:
        module: whose `training(kind, base)` gives a task and a config.
        kind: of training.
        base: folder of what it needs.
    """

    def __init__(self, module: str, kind: str, base: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py")), module, kind, str(base)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def _begin(self, run: Path, how: str) -> int:
        assert self._process.stdin is not None
        print(run, how, file=self._process.stdin, flush=True)
        return self._answer("pid")

    def _answer(self, word: str) -> int:
        assert self._process.stdout is not None
        first, number = self._process.stdout.readline().split()
        assert first == word
        return int(number)

    def run(self, run: Path, how: str) -> int:
        self._begin(run, how)
        return self._answer("code")

    def killed(
        self, run: Path, how: str, chance: random.Random, *, last: int = 40, while_writing: bool
    ) -> tuple[int, bool]:
        """Kill it after a random tick of this attempt, before its tick `last`.

        With `while_writing` it is killed when a checkpoint is seen being written, after that tick.

        Returns:
            Its exit code, and whether a checkpoint was being written.
        """
        pid = self._begin(run, how)
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
        return self._answer("code"), met
