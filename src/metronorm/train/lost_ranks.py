"""Which rank a training has lost: what it died of, where, and which of the others says so.

| what happens to a rank | the others notice, as | which it was is known, because |
| --- | --- | --- |
| it raises | its connections close | it has said so in the store, before it ended |
| it is killed, or its machine is | its connections close | its heartbeat has stopped |
| it is stopped, its link is cut | a collective has timed out | its heartbeat has stopped |
| its link to the store is cut | it does: a collective has timed out | the store does not answer |
| it waits in another place | a collective has timed out | its heartbeat says where it is |

A heartbeat is a count that a thread of each rank puts into the store, with the tick and the phase
it is in. Whoever reads two of them sees whether the rank lives: clocks are not compared. The
training thread only notes where it is.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from torch import distributed

from metronorm.errors import DivergenceError, MetronormError, RankError, StoppedEarly
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch._C._distributed_c10d import Store  # for the checker: it has no public name

_FAILED, _LOST, _SPEAKS = "failed", "lost", "speaks"
_PATIENCE_BEATS = 6  # heartbeats that a rank may be late by: a busy machine is no dead one
_STORE_SECONDS = 10.0  # for the store to answer
_OF_OTHERS = (
    *("gloo", "NCCL"),
    # gloo's without its name: of what waits beside the collective that has failed
    *("caused pair closure", "closed by peer", "reset by peer", "Socket closed"),
)


class Sign(msgspec.Struct, frozen=True):
    """What a rank says of itself.

    Attributes:
        rank: of it.
        host: its machine.
        tick: the running one; 0 before the first.
        phase: of the tick.
        count: of its heartbeats; 0: none was heard of.
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
        last = f"it was last heard of in {where}" if self.count else "nothing of it can be heard"
        return f"{who} is lost: {self.missed_by}; {last}"

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
        self._answers = True
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.found: list[Sign] = []

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._ended.set()
        self._thread.join(_STORE_SECONDS if self._answers else 0)

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
        return answer[0] if answer else self._without_store(error)

    def _explain(self, error: BaseException) -> BaseException:
        try:
            if not is_of_others(error):
                return self._own(error)
            speaks, signs = self._is_speaker(), self._signs()
            lost = self._find(signs, speaks=speaks)
        except RuntimeError:  # of the store
            return self._without_store(error)
        if lost:
            return self._naming(lost, speaks)
        found = RankError(
            "all ranks must wait for each other in the same place",
            got=_places(signs.values()) or first_line(error),
            fix="a hook or a loss that calls the model must do so on every rank",
        )
        found.is_told = not speaks
        return found

    def _without_store(self, error: BaseException) -> BaseException:
        """The machine of rank 0 keeps the store: that, or the way to it, is lost."""
        self._answers = False
        if not is_of_others(error):
            return error
        if not self._rank:
            return RankError("the launch's store must answer", got=first_line(error))
        sign = msgspec.structs.replace(
            self._sign(),
            rank=0,
            host=os.environ.get("MASTER_ADDR", "the host of the launch's store"),
            missed_by=self._missed(),
        )
        # nobody knows who else is there; on a machine its first rank says it
        return self._naming([sign], speaks=os.environ.get("LOCAL_RANK", "0") == "0")

    def _own(self, error: BaseException) -> BaseException:
        """Let the others know; one of them tells the user, after all else is on screen."""
        one_line = isinstance(error, MetronormError | StoppedEarly)
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

    def _find(self, before: Mapping[int, Sign], *, speaks: bool) -> list[Sign]:
        """The rank that has failed, or those whose heartbeat has stopped; none: all of them live.

        Args:
            before: the sign of each rank, when this one missed another.
            speaks: whether this rank looks for all others, which wait for what it finds.
        """
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
        lost = [
            msgspec.structs.replace(sign, missed_by=self._missed())
            for rank, sign in now.items()
            if rank != self._rank and rank in before and before[rank].count == sign.count
        ]
        self._store.set(_LOST, msgspec.json.encode(lost).decode())
        return lost

    def _missed(self) -> str:
        mine = self._sign()
        where = mine.place.split(", ", 1)[1]
        return f"rank {mine.rank} on {mine.host} waited for it in {where}"

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
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OF_OTHERS)
    )


def _places(signs: Iterable[Sign]) -> str:
    """Where ranks are, those with the fewest others first; empty: all are in one place."""
    found: dict[tuple[int, str], list[int]] = {}
    for sign in signs:
        found.setdefault((sign.tick, sign.phase), []).append(sign.rank)
    if len(found) < 2:
        return ""
    return "; ".join(
        f"rank {', '.join(map(str, ranks[:8]))}{', ...' if ranks[8:] else ''} in "
        f"{f'tick {tick}, ' if tick else ''}{phase}"
        for (tick, phase), ranks in sorted(found.items(), key=lambda each: len(each[1]))
    )


def first_line(error: BaseException) -> str:
    """The message of an error, as far as a line holds it."""
    return printable(str(error).strip().partition("\n")[0])
