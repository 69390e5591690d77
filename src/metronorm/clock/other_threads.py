"""Phases that other threads than the loop's open.

A tick's time is that of the thread that loops. What another thread does meanwhile would be charged
twice, so its phases are left out, and the clock warns of it. One that works while the loop waits
for it is no other: the backward pass of torch runs in threads of its own on an accelerator.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("metronorm")


def works_for_the_loop(name: str = "") -> bool:
    """Whether this thread is torch's, in a backward pass, and not one that Python started."""
    autograd = getattr(sys.modules.get("torch"), "_C", None)
    # public only as the error of torch.autograd.Variable._execution_engine.queue_callback
    task = getattr(autograd, "_current_graph_task_id", lambda: -1)()
    return task >= 0 and threading.get_ident() not in _started_by_python()


def _started_by_python() -> set[int | None]:
    dummy: Any = (
        threading._DummyThread
    )  # of a thread that has only looked itself up, as logging does
    return {each.ident for each in threading.enumerate() if not isinstance(each, dummy)}


class OtherThreads:
    """Asked for each phase that another thread opens or closes: whether it counts.

    Args:
        event: takes the name and the fields of what happened.
    """

    def __init__(self, event: Callable[..., None]) -> None:
        self._event = event
        self._left_out: set[str] = set()

    def __call__(self, name: str) -> bool:
        """Whether the phase of this name counts; False once with a warning."""
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
