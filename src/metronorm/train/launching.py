"""The same command in several processes of this machine, by torchrun.

The launcher passes SIGTERM and Ctrl-C on to all of them, and ends the others when one has failed.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from typing import TYPE_CHECKING

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from metronorm.errors import ConfigError
from metronorm.ranks import find_place

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAVING_SECONDS = 60  # from a signal to the end of the processes: a tick, and a checkpoint


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
        ConfigError: as `check_processes`.
    """
    check_processes(processes)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say what failed
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // processes)))
    config = LaunchConfig(
        run_id=uuid.uuid4().hex,
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=_SAVING_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        first = min(error.failures.values(), key=lambda failure: failure.timestamp)
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as error:
        return 128 + error.sigval
    return 0
