"""Python scripts that are forked from a process that has their libraries loaded.

To load torch takes seconds of a processor, and transformers with peft ten: a script that is
forked begins at once. It is a process of its own all the same, which knows nothing of the tests.
What it is forked from never computes, so no thread pool is there to be broken by the fork.

    python -m tests.forked MODULE ...       loads the modules, and answers every line that it reads

A line is JSON, one `Script` for each process to begin together; the answer is their exit codes.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]


@dataclass
class Script:
    """A process to fork.

    Args:
        words: path of the script, and its arguments.
        environment: all variables.
        folder: that it works in.
        said: file for what it says.
        seconds: after which it is ended.
    """

    words: list[str]
    environment: dict[str, str]
    folder: str
    said: str
    seconds: int


class Forks:
    """Forks scripts; to be used by `with`.

    Args:
        modules: that are loaded before.
        environment: more variables of the process that loads them.
        warned: what Python does with warnings.
    """

    def __init__(
        self, *modules: str, environment: Mapping[str, str] | None = None, warned: str = "error"
    ) -> None:
        self._command = [sys.executable, "-W", warned, "-m", "tests.forked", *modules]
        self._environment = environment or {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **self._environment},
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def begin_together(
        self,
        commands: Sequence[Sequence[str]],
        *,
        seconds: int,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> list[tuple[int, str]]:
        """Exit code of each script, and what it said on both channels; they run side by side."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            scripts = [
                Script(
                    words=list(words),
                    environment={**os.environ, **(environment or {})},
                    folder=str(folder or Path.cwd()),
                    said=str(Path(scratch, str(number))),
                    seconds=seconds,
                )
                for number, words in enumerate(commands)
            ]
            print(json.dumps([asdict(each) for each in scripts]), file=stdin, flush=True)
            codes = json.loads(stdout.readline())
            said = [Path(each.said).read_text(errors="replace") for each in scripts]
        return list(zip(codes, said, strict=True))

    def run_together(self, commands: Sequence[Sequence[str]], *, seconds: int) -> list[str]:
        """What scripts said that were begun together; all of them end well, and in time."""
        ended = self.begin_together(commands, seconds=seconds)
        said = [each for _, each in ended]
        assert [code for code, _ in ended] == [0] * len(commands), "\n".join(said)
        return said


class ForkedProcesses:
    """Stands for the module `subprocess`, where it runs a script of Python."""

    def __init__(self, forks: Forks) -> None:
        self._forks = forks

    def run(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], **others: object
    ) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run`, without a timeout of its own."""
        python, *words = command
        assert python == sys.executable
        if words[0] == "-P":  # a script that is forked imports nothing from its own folder
            del words[0]
        ((code, said),) = self._forks.begin_together(
            [words], seconds=240, environment=env, folder=cwd
        )
        return subprocess.CompletedProcess(command, code, "", said)


def _fork(script: Script) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(_run(script))
    return pid


def _run(script: Script) -> int:
    said = os.open(script.said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.clear()
    os.environ.update(script.environment)
    os.chdir(script.folder)
    signal.alarm(script.seconds)
    sys.argv = script.words
    try:
        runpy.run_path(script.words[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _main() -> None:
    # of torch about itself, when its compiler is loaded
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.")
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        pids = [_fork(Script(**each)) for each in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    _main()
