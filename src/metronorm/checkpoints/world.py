"""How the ranks that share a checkpoint agree: each works on its part, and all have one outcome."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from metronorm.errors import CheckpointError
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class NewerFormatError(CheckpointError):
    """A checkpoint of a later version: another one is no substitute, so none is looked for."""


class World(Protocol):
    """The processes that save or load together. All of them make the same calls, in one order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    def gather(self, value: bytes) -> list[bytes]:
        """What every rank gave, in order of the ranks; returns when all ranks have called it."""


class OneProcess:
    """The world of a process that works alone."""

    rank, size = 0, 1

    def gather(self, value: bytes) -> list[bytes]:
        """What this process gave."""
        return [value]


ONE_PROCESS: World = OneProcess()


class _Failure(msgspec.Struct, frozen=True):
    kind: str
    text: str
    number: int = 0  # of an OSError
    got: str | None = None
    fix: str | None = None


class _Message(msgspec.Struct, frozen=True):
    value: Any = None
    failure: _Failure | None = None


def agreed(world: World, work: Callable[[], T]) -> list[T]:
    """Do something on every rank, and give all ranks all results; where one fails, all fail.

    So no rank waits for one that has failed, and all of them do the same next.

    Args:
        world: all of its ranks call this.
        work: what this rank does; its result is of plain JSON values.

    Returns:
        The results, in order of the ranks.

    Raises:
        OSError, CheckpointError, NewerFormatError: one rank's, on all ranks.
        RuntimeError: any other error of another rank. This rank's own is raised as it is.
    """
    if world.size == 1:
        return [work()]
    error, message = None, _Message()
    try:
        message = _Message(work())
    except BaseException as caught:  # also an interrupt: the others would wait for this rank
        error, message = caught, _Message(failure=_failure(caught))
    encoded = world.gather(msgspec.json.encode(message))
    messages = [msgspec.json.decode(each, type=_Message) for each in encoded]
    failures = [(rank, each.failure) for rank, each in enumerate(messages) if each.failure]
    if failures:
        known = (OSError.__name__, CheckpointError.__name__, NewerFormatError.__name__)
        rank, failure = min(failures, key=lambda each: each[1].kind in known)  # the first of them
        if error and (rank == world.rank or not isinstance(error, OSError | CheckpointError)):
            raise error
        raise _as_error(failure, rank)
    return [each.value for each in messages]


def _failure(error: BaseException) -> _Failure:
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        text = printable(f"{error.strerror or error}{where}")
        return _Failure(OSError.__name__, text, error.errno or 0)
    kind = type(error).__name__
    if isinstance(error, CheckpointError):
        got = None if error.got is None else printable(error.got)
        return _Failure(kind, printable(error.must), got=got, fix=error.fix)
    return _Failure(kind, printable(str(error)))


def _as_error(failure: _Failure, rank: int) -> Exception:
    """The error of another rank."""
    if failure.kind == OSError.__name__:
        return OSError(
            failure.number, f"{failure.text or os.strerror(failure.number)} (rank {rank})"
        )
    for kind in (CheckpointError, NewerFormatError):
        if failure.kind == kind.__name__:
            return kind(failure.text, got=f"{failure.got} (rank {rank})", fix=failure.fix)
    return RuntimeError(f"rank {rank} failed: {failure.kind}: {failure.text}")
