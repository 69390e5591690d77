"""The wait for batches, timed in whatever is iterated."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

from metronorm.clock.hooks.retype import kind_of, retype
from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metronorm.clock.hooks.watch import Watch


def watch_loader(watch: Watch, loader: Any) -> Callable[[], None]:
    """Have every iteration of a loader timed; what undoes it.

    Raises:
        ConfigError: its class cannot be changed.
    """
    iterate = getattr(type(loader), "__iter__", None)

    def timed(loader: Any) -> Any:
        assert iterate is not None
        begin = partial(iterate, loader)
        return begin() if watch.away() else Batches(watch, begin)

    try:
        if iterate is None:
            raise TypeError
        return retype(loader, __iter__=timed)
    except TypeError:
        raise ConfigError(
            "a watched loader must be an object whose class is defined in Python",
            got=kind_of(loader),
            fix="clock.watch(...) without it, and `for batch in watch.data(loader)`",
        ) from None


class Batches:
    """An iteration, timed."""

    def __init__(self, watch: Watch, begin: Callable[[], Iterator[Any]]) -> None:
        self._watch, self._source, self._over = watch, None, True
        self._source = watch.wait(begin)
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """The next batch."""
        try:
            batch = self._watch.wait(next, self._source)
        except StopIteration:
            self._over = True
            raise
        self._watch.got()
        return batch

    def __getattr__(self, name: str) -> Any:
        """Whatever else the iterator has."""
        return getattr(self._source, name)

    def __del__(self) -> None:
        if not self._over:
            self._watch.left()
