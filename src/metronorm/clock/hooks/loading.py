"""Measure the wait for batches of any iterable."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

from metronorm.clock.hooks.instance_override import describe_type, override_on_instance
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Listener(Protocol):
    """What is notified of a watched iteration; `metronorm.clock.hooks.Watch` is one."""

    def is_ignored(self) -> bool:
        """Whether the calling thread is not the watched one, or the watch was removed."""

    def wait(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function`, which waits for a batch, and return what it returns."""

    def on_batch(self) -> None:
        """A batch has arrived."""

    def on_loop_left(self) -> None:
        """The loop dropped its iterator before the loader was exhausted."""


def watch_loader(listener: Listener, loader: Any) -> Callable[[], None]:
    """Measure every iteration of `loader`; the returned function ends that.

    Raises:
        ConfigError: the class of `loader` cannot be overridden, such as that of a list.
    """
    iterate = getattr(type(loader), "__iter__", None)

    def timed(loader: Any) -> Any:
        assert iterate is not None
        begin = partial(iterate, loader)
        return begin() if listener.is_ignored() else Batches(listener, begin)

    try:
        if iterate is None:
            raise TypeError
        return override_on_instance(loader, __iter__=timed)
    except TypeError:
        raise ConfigError(
            "a watched loader must be an object whose class is defined in Python",
            got=describe_type(loader),
            fix="clock.watch(...) without it, and `for batch in watch.data(loader)`",
        ) from None


class Batches:
    """An iterator that measures the wait for each batch of another iterator.

    Args:
        listener: notified of every wait, every batch, and of a loop that was left early.
        begin: makes the iterator to measure.
    """

    def __init__(self, listener: Listener, begin: Callable[[], Iterator[Any]]) -> None:
        self._listener = listener
        self._source = listener.wait(begin)
        # `break` drops the iterator of a `for` loop, and nothing else tells that the loop was left
        self._on_dropped = weakref.finalize(self, listener.on_loop_left)
        self._on_dropped.atexit = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            StopIteration: the loader is exhausted.
        """
        try:
            batch = self._listener.wait(next, self._source)
        except StopIteration:
            self._on_dropped.detach()
            raise
        self._listener.on_batch()
        return batch

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the measured iterator."""
        if name == "_source":  # `begin` raised, so there is none
            raise AttributeError(name)
        return getattr(self._source, name)
