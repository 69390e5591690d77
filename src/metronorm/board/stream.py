"""Server-sent events: which runs have changed, at most twice a second.

While nobody listens, nothing is looked at. A listener that comes back names the last event that it
got (`Last-Event-ID`, or `?since=` for the first time) and gets what has changed since; if that was
before this server began, it gets an event `reset`, after which it asks for the whole list.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any

from metronorm.board.answers import Json
from metronorm.errors import MetronormError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from metronorm.board.entry import Entry
    from metronorm.board.listing import Listing

LOOK_SECONDS, COMMENT_SECONDS = 0.5, 15.0
MOST_LISTENERS = 100


class Stream:
    """The stream of a listing.

    Args:
        listing: the runs.
        call: runs a function in a thread and waits for it.
    """

    def __init__(self, listing: Listing, call: Callable[..., Awaitable[Any]]) -> None:
        self._listing, self._call = listing, call
        self._name = secrets.token_hex(4)  # differs after a restart
        self._listeners = 0
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._closing = asyncio.Event()

    @property
    def cursor(self) -> str:
        """The id of an event that says all that has changed until now."""
        return f"{self._name}-{self._listing.version}"

    @property
    def is_full(self) -> bool:
        """Whether there are so many listeners that no more are let in."""
        return self._listeners >= MOST_LISTENERS

    async def close(self) -> None:
        """End all streams, so that the server can end."""
        self._closing.set()
        async with self._changed:
            self._changed.notify_all()

    async def events(self, since: str) -> AsyncIterator[bytes]:
        """The lines of a stream.

        Args:
            since: the id of the last event that the listener has got; "" for none.
        """
        self._listeners += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        try:
            name, _, version = since.partition("-")
            ours = name == self._name and version.isdecimal() and len(version) < 20
            sent = int(version) if ours else -1
            if sent < 0:
                sent = self._listing.version
                yield self._event("reset", sent, {})
            while not self._has_ended:
                if (now := self._listing.version) > sent:
                    entries, removed = self._listing.changed_since(sent)
                    sent = now
                    news = [_news(entry) for entry in entries]
                    news += [{"id": run, "gone": True} for run in removed]
                    yield self._event("runs", sent, {"runs": news})
                if not await self._wait(sent):
                    yield b": still here\n\n"
        finally:
            self._listeners -= 1

    @property
    def _has_ended(self) -> bool:
        """Whether nobody looks any more."""
        return self._closing.is_set() or self._looking is None

    async def _wait(self, version: int) -> bool:
        """Wait for news after a version; False if there were none for long."""
        try:
            async with asyncio.timeout(COMMENT_SECONDS), self._changed:
                await self._changed.wait_for(
                    lambda: self._has_ended or self._listing.version > version
                )
        except TimeoutError:
            return False
        return True

    async def _look(self) -> None:
        """Look at the runs while somebody listens.

        An unforeseen error ends the streams too: who listens comes back, and it is looked again.
        """
        seen = self._listing.version
        try:
            while self._listeners and not self._closing.is_set():
                with contextlib.suppress(MetronormError, OSError):
                    await self._call(self._listing.look)
                if self._listing.version != seen:
                    seen = self._listing.version
                    async with self._changed:
                        self._changed.notify_all()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), LOOK_SECONDS)
        finally:
            self._looking = None
            async with self._changed:
                self._changed.notify_all()

    def _event(self, name: str, version: int, data: dict[str, Any]) -> bytes:
        text = bytes(Json(data).body).decode()
        return f"id: {self._name}-{version}\nevent: {name}\ndata: {text}\n\n".encode()


def _news(entry: Entry) -> dict[str, Any]:
    listed = entry.listed(time.time_ns())
    return {name: listed[name] for name in listed if name not in ("note", "begun_ns", "folder")}
