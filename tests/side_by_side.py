"""Processes that work together, such as ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run_together(
    arguments: Sequence[Sequence[str]],
    *,
    seconds: float,
    environments: Sequence[Mapping[str, str]] | None = None,
) -> list[str]:
    """What Python processes said that were begun together; all of them end well, and in time."""
    added = environments or [{}] * len(arguments)
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", *words],
            env={**os.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words, more in zip(arguments, added, strict=True)
    ]
    try:
        said = [process.communicate(timeout=seconds)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(said)
    return said


def leave() -> NoReturn:
    """End this process, in which all went well; what is said last in a script of ranks.

    Where Python tears it down, a thread of gloo's (torch 2.13) now and then aborts it instead.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
