"""The processes of `metronorm train --processes` and of torchrun end with what started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAUNCHER = "METRONORM_LAUNCHER"  # the launcher's process number, for those that it starts

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """Inside the block, processes that are started know that this one is their launcher."""
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ[_LAUNCHER]


def end_with_launcher() -> None:
    """Get SIGTERM when the launcher is killed: else the training would go on, and own its run.

    Linux only. Elsewhere, and in a process that no launcher has started, this does nothing.
    """
    launcher = os.environ.pop(_LAUNCHER, None)  # whatever this process starts is its own
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if (launcher is None and not by_torchrun) or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if launcher is not None and str(os.getppid()) != launcher:  # it was faster
        os.kill(os.getpid(), signal.SIGTERM)
