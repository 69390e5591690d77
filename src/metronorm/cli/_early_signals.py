"""A signal before the first tick ends `metronorm train` at once, as there is nothing to save."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, NoReturn

from metronorm.errors import StoppedEarly

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def ending_early() -> Iterator[None]:
    """Inside the block, a signal that nothing else handles raises `StoppedEarly`."""
    before = {number: signal.signal(number, _end) for number in _SIGNALS if not _is_handled(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_handled(number: signal.Signals) -> bool:
    """Whether it is left to somebody else; as in `Stop`, nohup decides of a closed terminal."""
    handler = signal.getsignal(number)
    if handler == signal.SIG_IGN:
        return number == signal.SIGHUP
    return handler not in (signal.SIG_DFL, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise StoppedEarly(signal.Signals(number))
