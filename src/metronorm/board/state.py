"""What a board keeps between two requests: the list, what was read, and the threads that read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request  # noqa: TC002 - FastAPI reads it

from metronorm.board.listing import Listing
from metronorm.board.not_finite import NotFinite
from metronorm.board.opening import BAD_INPUT, check_size
from metronorm.board.series import RunSeries, read_ahead
from metronorm.board.standing import UNDER_WAY, Signature, signature
from metronorm.board.stream import Stream
from metronorm.board.values import Values
from metronorm.errors import MetronormError
from metronorm.store.engine import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from metronorm.board.entry import Entry
    from metronorm.board.series.ahead import Ahead

T = TypeVar("T")

MOST_WAITING = 200  # requests; a page has fewer at once
MOST_SERIES, MOST_BYTES = 200, 1 << 30  # runs whose columns are kept, and what these may take
FIRST_METRIC = "loss"  # whose chart is the first on a page, where a run has it
MOST_KEPT = 50  # answers that take long, such as a diagnosis


class BusyError(MetronormError):
    """More requests wait than can be answered soon."""


@dataclass
class _Held:
    """The series of a run that had this `run.json`.

    Attributes:
        taken: bytes.
        seen: what its files were before it was read, if the run was over; nothing changes then.
    """

    stamp: tuple[int, ...]
    series: RunSeries
    taken: int = 0
    seen: Signature | None = None


class Board:
    """The state of a board.

    Files are read in a few threads, however many people ask.

    Args:
        roots: folders that hold runs, and runs.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.listing = Listing(roots)
        self.values = Values(self.series)
        self.not_finite = NotFinite()
        self._threads = ThreadPoolExecutor(
            min(4, (os.cpu_count() or 1) + 1), thread_name_prefix="board"
        )
        self._threads.submit(_warm_up)  # while the browser begins
        self._waiting = 0
        self._series: OrderedDict[Path, _Held] = OrderedDict()
        self._kept: OrderedDict[tuple[Any, ...], tuple[Any, Any]] = OrderedDict()
        self._kept_lock, self._ahead_lock = threading.Lock(), threading.Lock()
        self.stream = Stream(self.listing, self.call)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function that reads files, from a thread.

        Raises:
            BusyError: too many requests wait already.
        """
        if self._waiting >= MOST_WAITING:
            raise BusyError("a board answers a few requests at once", fix="a moment later")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, function, *arguments)
        finally:
            self._waiting -= 1

    async def look_for(self, request: Request) -> None:
        """Look at the folders once more, if a request names a run that is not in the list.

        A link may be opened before the first look, or when a run has just begun.
        """
        query = request.query_params
        named = [request.path_params.get("run"), query.get("with"), *query.getlist("runs")]
        if not self.listing.has([run for run in named if run is not None]):
            await self.call(self.listing.look)

    def kept(self, key: str, entry: Entry, make: Callable[[], T]) -> T:
        """What a function returns, kept while the files of the run are the same."""
        place, stamp = (key, entry.directory), (entry.stamp, signature(entry.directory))
        with self._kept_lock:
            found = self._kept.get(place)
            if found is not None and found[0] == stamp:
                self._kept.move_to_end(place)
                result: T = found[1]
                return result
        result = make()
        with self._kept_lock:
            self._kept[place] = stamp, result
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return result

    def read_together(self, entries: Iterable[Entry], names: Sequence[str]) -> None:
        """Read runs of which nothing was read yet, many at once; `series` then has little to do.

        Args:
            entries: the runs.
            names: the metrics that will be asked for.
        """

        def unread() -> list[Entry]:
            with self._kept_lock:
                known = {place: held.stamp for place, held in self._series.items()}
            return [entry for entry in entries if known.get(entry.directory) != entry.stamp]

        entries = dict.fromkeys(entries)
        if not unread():
            return
        with self._ahead_lock:  # what another thread reads at this moment is not read twice
            new = unread()
            ahead = read_ahead([entry.directory for entry in new], names)
            for entry in new:
                if entry.directory in ahead:
                    with contextlib.suppress(*BAD_INPUT):  # who asks for the series is told
                        self.series(entry, ahead[entry.directory])

    def series(self, entry: Entry, ahead: Ahead | None = None) -> RunSeries:
        """The series of a run, as its files are now; those that were used last are kept.

        Args:
            entry: the run.
            ahead: what `read_ahead` has read of it.
        """
        over = entry.standing is not None and entry.state not in UNDER_WAY
        seen = signature(entry.directory) if over else None
        with self._kept_lock:
            held = self._series.get(entry.directory)
        if held is None or held.stamp != entry.stamp or seen is None or held.seen != seen:
            check_size(entry.directory)
        with self._kept_lock:
            held = self._series.pop(entry.directory, None)
            if held is None or held.stamp != entry.stamp:
                held = _Held(entry.stamp, RunSeries(entry.directory, ahead=ahead))
            self._series[entry.directory] = held
        if seen is None or held.seen != seen:
            held.series.refresh()
            held.seen = seen
        held.taken = held.series.nbytes
        with self._kept_lock:
            while len(self._series) > 1 and (
                len(self._series) > MOST_SERIES
                or sum(each.taken for each in self._series.values()) > MOST_BYTES
            ):
                self._series.popitem(last=False)
        if held.taken > MOST_BYTES:
            held.series.trim(MOST_BYTES)
        return held.series

    def read_ahead(self, entries: Sequence[Entry]) -> None:
        """Begin to read the series of some runs, whose charts will be asked for next."""

        def read() -> None:
            with contextlib.suppress(*BAD_INPUT):  # the charts say it
                self.read_together(entries, [FIRST_METRIC])
            for entry in entries:
                with contextlib.suppress(*BAD_INPUT):
                    self.series(entry).value(FIRST_METRIC)

        self._threads.submit(read)

    def close(self) -> None:
        """End the threads."""
        self.listing.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _warm_up() -> None:
    with connect() as database:
        database.execute("select 1").fetchnumpy()
