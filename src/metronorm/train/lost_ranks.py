"""Which rank a training has lost: what it died of, where, and which of the others says so.

| what happens to a rank | the others notice, as | which it was is known, because |
| --- | --- | --- |
| it raises | its connections close | it has said so in the store, before it ended |
| it is killed, or its machine is | its connections close | its heartbeat has stopped |
| it is stopped, its link is cut | a collective has timed out | its heartbeat has stopped |

A heartbeat is a count that a thread of each rank puts into the store, with the tick and the phase
it is in. Whoever reads two of them sees whether the rank lives: clocks are not compared. The
training thread only notes where it is.
"""

from __future__ import annotations

import contextlib
import platform
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from torch import distributed

from metronorm.errors import DivergenceError, MetronormError, RankError
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._C._distributed_c10d import Store  # for the checker: it has no public name

_FAILED, _LOST, _SPEAKS = "failed", "lost", "speaks"
_PATIENCE_BEATS = 6  # heartbeats that a rank may be late by: a busy machine is no dead one
_STORE_SECONDS = 10.0  # for the store to answer


class Sign(msgspec.Struct, frozen=True):
    """What a rank says of itself.

    Attributes:
        rank: of it.
        host: its machine.
        tick: the running one; 0 before the first.
        phase: of the tick.
        count: of its heartbeats.
        error: what it has raised, in one line; empty: nothing.
        missed_by: where the rank that missed it was; empty: it has failed itself.
    """

    rank: int
    host: str
    tick: int
    phase: str
    count: int = 0
    error: str = ""
    missed_by: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.place}: {self.error}"
        who, where = self.place.split(", ", 1)
        return f"{who} is lost: {self.missed_by}; it was last heard of in {where}"

    @property
    def place(self) -> str:
        """The rank, its host, the tick and the phase."""
        where = f"tick {self.tick}, {self.phase}" if self.tick else f"{self.phase}"
        return f"rank {self.rank} on {self.host}, {where}"

    def fields(self) -> dict[str, str | int]:
        """What an event of it holds."""
        return {
            "lost_rank": self.rank,
            "lost_host": self.host,
            "lost_tick": self.tick,
            "lost_phase": self.phase,
            "lost_error": self.error,
        }


class LostRanks:
    """Finds out which rank a training has lost, and lets the others know of this one.

    Args:
        store: of the training alone; all ranks reach it.
        rank: this one.
        size: number of ranks.
        where: gives the running tick and its phase; called in a thread.

    Attributes:
        found: the ranks that are lost, once `explain` has found any.
    """

    def __init__(
        self, store: Store, rank: int, size: int, where: Callable[[], tuple[int, str]]
    ) -> None:
        self._rank, self._size, self._where = rank, size, where
        self._host = printable(platform.node() or "this machine")
        # one for each thread: a store lets one call wait for the other
        clone = store.clone  # type: ignore[attr-defined]  # the stubs lack it
        self._store, self._thread_store = clone(), clone()
        # many ranks beat slowly, so that one store can take it
        self._seconds = max(0.25, size / 4000)
        self._patience = self._seconds * _PATIENCE_BEATS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.found: list[Sign] = []

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._ended.set()
        self._thread.join(_STORE_SECONDS)

    def _sign(self, **more: object) -> Sign:
        tick, phase = self._where()
        return msgspec.convert(
            {"rank": self._rank, "host": self._host, "tick": tick, "phase": phase, **more}, Sign
        )

    def _beat(self) -> None:
        count = 0
        with contextlib.suppress(RuntimeError):  # the store has gone, and the training with it
            while not self._ended.is_set():
                count += 1
                sign = msgspec.json.encode(self._sign(count=count)).decode()
                self._thread_store.set(f"alive/{self._rank}", sign)
                self._ended.wait(self._seconds)

    def explain(self, error: BaseException) -> BaseException:
        """The error that this rank ends with, once another one or this one has failed.

        The rank that fails first ends with its own error. All others end with a RankError that
        names it; one of them tells the user, if the first does not.

        Args:
            error: what was raised on this rank.
        """
        if isinstance(error, RankError):
            return error
        answer: list[BaseException] = []
        # in a thread, as the store may hang where its rank does
        asking = threading.Thread(target=lambda: answer.append(self._explain(error)), daemon=True)
        asking.start()
        asking.join(_STORE_SECONDS + self._patience)
        if answer:
            return answer[0]
        if not is_of_others(error):
            return error
        return RankError("the ranks and their store must answer", got=first_line(error))

    def _explain(self, error: BaseException) -> BaseException:
        try:
            if not is_of_others(error):
                return self._own(error)
            speaks = self._is_speaker()
            lost = self._find(speaks=speaks)
        except RuntimeError as trouble:  # of the store
            if not is_of_others(error):
                return error
            return RankError(
                "the launch's store must answer, which one of its processes keeps",
                got=first_line(trouble),
            )
        if not lost:
            return RankError("the ranks must answer each other", got=first_line(error))
        return self._naming(lost, speaks)

    def _own(self, error: BaseException) -> BaseException:
        """Let the others know; one of them tells the user, after all else is on screen."""
        one_line = isinstance(error, MetronormError)
        text = first_line(error) if one_line else f"{type(error).__name__}: {first_line(error)}"
        mine = msgspec.json.encode(self._sign(error=text))
        first = self._store.compare_set(_FAILED, "", mine.decode())
        if isinstance(error, DivergenceError):  # which is on all ranks
            error.is_told = first != mine
        elif first != mine and isinstance(error, Exception):
            self._ended.wait(self._patience)  # until the first has said what it has to say
            return self._naming([msgspec.json.decode(first, type=Sign)], self._is_speaker())
        elif isinstance(error, MetronormError):
            error.is_told = True
        return error

    def _is_speaker(self) -> bool:
        """Whether this is the rank that tells the user; to be asked once."""
        return bool(self._store.add(_SPEAKS, 1) == 1)

    def _naming(self, lost: list[Sign], speaks: bool) -> RankError:
        self.found = lost
        error = RankError("; ".join(map(str, lost)))
        error.is_told = not speaks
        return error

    def _find(self, *, speaks: bool) -> list[Sign]:
        """The rank that has failed, or those whose heartbeat has stopped; none: all of them live.

        Args:
            speaks: whether this rank looks for all others, which wait for what it finds.
        """
        before = self._signs()
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            if self._store.check([_FAILED]):
                return [msgspec.json.decode(self._store.get(_FAILED), type=Sign)]
            time.sleep(self._seconds / 4)
        if not speaks:
            with contextlib.suppress(RuntimeError):  # the one that looks has ended before
                self._store.wait([_LOST], timedelta(seconds=2 * self._seconds))
                return msgspec.json.decode(self._store.get(_LOST), type=list[Sign])
        now = self._signs()
        mine = self._sign()
        missed_by = f"rank {mine.rank} waited for it in tick {mine.tick}, {mine.phase}"
        lost = [
            msgspec.structs.replace(sign, missed_by=missed_by)
            for rank, sign in now.items()
            if rank != self._rank and rank in before and before[rank].count == sign.count
        ]
        self._store.set(_LOST, msgspec.json.encode(lost).decode())
        return lost

    def _signs(self) -> dict[int, Sign]:
        """The newest sign of each rank that has given one."""
        keys = [f"alive/{rank}" for rank in range(self._size)]
        if not self._store.check(keys):
            keys = [key for key in keys if self._store.check([key])]
        found = [msgspec.json.decode(each, type=Sign) for each in self._store.multi_get(keys)]
        return {sign.rank: sign for sign in found}


def is_of_others(error: BaseException) -> bool:
    """Whether an error of torch says that another process does not answer, read in torch 2.13."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL"))
    )


def first_line(error: BaseException) -> str:
    """The message of an error, as far as a line holds it."""
    return printable(str(error).strip().partition("\n")[0])
