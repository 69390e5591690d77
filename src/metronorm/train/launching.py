"""The same command in several processes of this machine, by torchrun.

| what happens | what the launcher does |
| --- | --- |
| it gets SIGTERM, SIGHUP or Ctrl-C | passes that on, and waits until all have saved |
| before there are processes | ends |
| a process fails | sends SIGTERM to the others, and SIGKILL 30 s later (torchrun) |
| and another one is stopped (SIGSTOP) | lets it go on, so that it ends as well |
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import uuid
from typing import TYPE_CHECKING

import psutil
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from metronorm.errors import ConfigError, StoppedEarly
from metronorm.ranks import find_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

_MOST_PER_CORE = 8  # a thousand processes, asked for by mistake, would stop the machine
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_processes(processes: int) -> None:
    """Look whether this process may start so many.

    Raises:
        ConfigError: less than one process, or a process that is one of several already.
    """
    if processes < 1:
        raise ConfigError("processes must be at least 1", got=str(processes))
    if find_place().world_size > 1:
        raise ConfigError(
            "--processes starts processes of its own",
            got="a process that a launcher has started",
            fix="leave --processes out: the launcher says how many there are",
        )


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run Python with these arguments in several processes.

    Args:
        processes: how many.
        arguments: such as `-m metronorm train`.

    Returns:
        The exit code: 0, or that of the first process that failed.

    Raises:
        ConfigError: as `check_processes`, or far more than there are cores.
        StoppedEarly: a signal came before there were processes.
    """
    check_processes(processes)
    most = _MOST_PER_CORE * _cores()
    if processes > most:
        raise ConfigError(
            f"processes must be at most {most} on this machine, {_MOST_PER_CORE} for each core",
            got=f"{processes:,}",
            fix="--dry-run, to see what each of so many would hold and send",
        )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say what failed
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    config = LaunchConfig(
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # the others are ours
    )
    try:
        with _passing_signals_on(processes):
            elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    return 0


@contextlib.contextmanager
def _passing_signals_on(processes: int) -> Iterator[None]:
    """Torchrun would do so too, but end the processes 30 s later, or at the second signal."""
    before = {
        number: signal.signal(number, _pass_on)
        for number in _PASSED_ON
        # as `Stop` does: nohup has it that a closed terminal ends nothing
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: _let_go_on(processes))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(number: int, frame: FrameType | None) -> None:
    there = psutil.Process().children()
    if not there:
        raise StoppedEarly(signal.Signals(number))
    for each in there:
        _send(each, number)


def _let_go_on(processes: int) -> None:
    """If a process has ended, another one that is stopped must hear that it is to end as well."""
    states = [(each, each.status()) for each in psutil.Process().children()]
    ended = [each for each, state in states if state == psutil.STATUS_ZOMBIE]
    if ended or len(states) < processes:
        for each, state in states:
            if state == psutil.STATUS_STOPPED:
                _send(each, signal.SIGCONT)


def _send(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
        os.killpg(process.pid, number)  # torchrun makes each of them the leader of a group
