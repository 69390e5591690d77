"""The stall watch: when no tick comes for much longer than usual, what is everybody doing?"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import traceback
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("metronorm")

_FIRST_TICKS = 5  # these load, compile and warm up
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class StallWatch:
    """When to call it a stall, and whom to tell.

    Args:
        times: how many usual ticks without one.
        at_least_seconds: and not before this, whatever is usual: evaluations and checkpoints are
            no stalls.
        command: a program and its arguments to run then, in the folder in which the clock was
            opened; it is given the event as JSON on its standard input.
        webhook: an http(s) address to send the event to as JSON.
    """

    times: float = 20.0
    at_least_seconds: float = 60.0
    command: tuple[str, ...] = ()
    webhook: str = ""


class Stalls:
    """Looks at a tick counter now and then, and tells of a stall once.

    Args:
        watch: when it is one.
        now_ns: the moment the watch begins.
    """

    def __init__(self, watch: StallWatch, now_ns: int) -> None:
        self._watch = watch
        self._tick = self._changes = self._seen = 0
        self._since = now_ns
        self._usual_ns = 0.0
        self._told = False

    def look(self, tick: int, now_ns: int) -> float | None:
        """Seconds without a tick, if that has just become a stall."""
        if tick != self._tick:
            self._changes += 1
            # loading comes before the first change, and the count of a resumed run jumps there
            if self._changes > 1:
                ticks = max(tick - self._tick, 1)
                period = (now_ns - self._since) / ticks
                self._seen += ticks
                # the slower of late counts: a tick with an evaluation in it is usual too
                self._usual_ns = max(period, 0.9 * self._usual_ns)
            self._tick, self._since, self._told = tick, now_ns, False
            return None
        waited = now_ns - self._since
        limit = max(self._watch.times * self._usual_ns, self._watch.at_least_seconds * 1e9)
        if self._told or self._seen < _FIRST_TICKS or waited <= limit:
            return None
        self._told = True
        return waited / 1e9


def stacks() -> str:
    """Where every Python thread of this process is, by the names in its frames alone.

    No file is read or written: it may be the disk that everybody waits for.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    text = []
    for thread, frame in sys._current_frames().items():
        text.append(f"Thread {names.get(thread, thread)}:")
        text += [
            f'  File "{each.f_code.co_filename}", line {line}, in {each.f_code.co_qualname}'
            for each, line in traceback.walk_stack(frame)
        ]
    return "\n".join(text)


def tell(watch: StallWatch, event: dict[str, Any], folder: Path | None = None) -> None:
    """Run the command in a folder and call the webhook; what fails is logged, and nothing else."""
    message = json.dumps(event).encode()
    if watch.command:
        try:
            subprocess.run(
                list(watch.command), input=message, timeout=_TIMEOUT_SECONDS, check=True, cwd=folder
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _log.warning("the stall command failed: %s", error)
    if watch.webhook:
        try:
            request = urllib.request.Request(
                watch.webhook, data=message, headers={"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
        except (OSError, ValueError, HTTPException) as error:
            _log.warning("the stall webhook failed: %s", error)
