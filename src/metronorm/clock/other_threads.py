"""Phases that threads other than the loop's open.

A tick's time is the time of the thread that loops. Phases of other threads run at the same time, so
they would be counted twice; they are left out, and the clock warns. There is one exception: on an
accelerator the backward pass of torch runs in threads of its own while the loop waits for it.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

from metronorm.clock import _torch_private

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("metronorm")


def works_for_the_loop(name: str = "") -> bool:
    """Whether this thread is one of torch's own, in a backward pass; `name` has no effect."""
    in_backward = _torch_private.runs_backward(sys.modules.get("torch"))
    return in_backward and threading.get_ident() not in _started_by_python()


def _started_by_python() -> set[int | None]:
    # Python makes a dummy for a foreign thread that has asked for its name, as logging does
    dummy: Any = threading._DummyThread
    return {each.ident for each in threading.enumerate() if not isinstance(each, dummy)}


class OtherThreads:
    """Decides for each phase that another thread opens or closes whether it counts.

    Args:
        event: records an event by its name and fields.
    """

    def __init__(self, event: Callable[..., None]) -> None:
        self._event = event
        self._left_out: set[str] = set()

    def __call__(self, name: str) -> bool:
        """Whether the phase with this name counts; if not, warn once for each name."""
        if works_for_the_loop():
            return True
        if name not in self._left_out:
            self._left_out.add(name)
            thread = threading.current_thread().name
            self._event("phase left out", phase=name, thread=thread)
            _log.warning(
                "the phase %r of thread %s is not measured: a tick's time is that of the thread "
                "that loops; give it a clock and a run of its own, or log its seconds",
                name,
                thread,
            )
        return False
