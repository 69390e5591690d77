"""Contestants in processes of their own, which work when they are asked to, one at a time.

So no thread of one disturbs another, and what each costs in processor time can be told apart.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    Make = Callable[[Path, contextlib.ExitStack], Callable[..., Any]]

_PATIENCE_SECONDS = 60.0


class Worker:
    """A fresh process with a function that answers.

    Args:
        make: called in that process with `folder` and a stack of what is to be done at the end;
            makes what answers.
        folder: of this worker alone; its output is in `output.txt` there.
    """

    def __init__(self, make: Make, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, make, folder), daemon=True)
        process.start()
        theirs.close()
        assert process.pid is not None
        self._process, self._handle = psutil.Process(process.pid), process
        self._receive()

    def ask(self, *question: Any) -> Any:
        """What it answers.

        Raises:
            RuntimeError: it is dead; with the last it had to say.
        """
        self._pipe.send(question)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise self._failure() from None

    def _failure(self) -> RuntimeError:
        self._handle.join(_PATIENCE_SECONDS)
        said = (self.folder / "output.txt").read_text(errors="replace")
        ended = f"the worker in {self.folder} failed, exit code {self._handle.exitcode}"
        return RuntimeError(f"{ended}:\n{said[-2000:]}")

    def processor_ns(self) -> int:
        """Of all its threads and of its children that live, to the nanosecond."""
        spent = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(OSError):  # it has ended
                spent += time.clock_gettime_ns(~process.pid << 3 | 2)  # as clock_getcpuclockid(3)
        return spent

    def close(self) -> None:
        """Let it finish; what of it and its children is left afterwards is killed.

        Raises:
            RuntimeError: it has failed.
        """
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [self._process, *self._process.children(recursive=True)]
        self._pipe.close()
        self._handle.join(_PATIENCE_SECONDS)
        end_all(family)
        self._handle.join()
        if self._handle.exitcode:
            raise self._failure()


def end_all(processes: list[psutil.Process], seconds: float = 20.0) -> None:
    """Wait for them to end by themselves, then kill what is left."""
    _, left = psutil.wait_procs(processes, timeout=seconds)
    for process in left:
        with contextlib.suppress(psutil.Error):
            print(f"killing {process.name()}, which did not end", file=sys.stderr)
            process.kill()


def _work(pipe: Connection, make: Make, folder: Path) -> None:
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    with contextlib.ExitStack() as stack:
        answer = make(folder, stack)
        pipe.send(None)
        with contextlib.suppress(EOFError):
            while True:
                pipe.send(answer(*pipe.recv()))
