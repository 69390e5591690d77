"""A checkpoint is written by a thread of its own while the training goes on, or at once."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def in_background(work: Callable[[], T]) -> Future[T]:
    """Do something in a thread; ask the future whether it has ended, and for what came of it.

    The process does not end before the work has.
    """

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whoever asks for the result gets it
            future.set_exception(error)

    future: Future[T] = Future()
    threading.Thread(target=run, name="metronorm-checkpoint").start()
    return future


def at_once(work: Callable[[], T]) -> Future[T]:
    """As `in_background`, but the work has ended when this returns."""
    future: Future[T] = Future()
    try:
        future.set_result(work())
    except Exception as error:  # not KeyboardInterrupt, which must go on
        future.set_exception(error)
    return future
