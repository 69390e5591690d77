"""The stall watch: when no tick comes for much longer than usual, record where all threads are."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("metronorm")

_FIRST_TICKS = 5  # they load, compile and warm up
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class StallWatch:
    """When missing ticks are a stall, and whom to notify.

    Args:
        times: how many usual ticks without a tick are a stall.
        at_least_seconds: the shortest stall, however short usual ticks are: evaluations and
            checkpoints are no stalls.
        command: a program and its arguments, run at a stall in the directory in which the clock
            was opened; its standard input is the event as JSON.
        webhook: an http(s) address that gets the event as JSON.
    """

    times: float = 20.0
    at_least_seconds: float = 60.0
    command: tuple[str, ...] = ()
    webhook: str = ""


class Stalls:
    """Finds stalls from a tick counter that is read now and then.

    | state | event | next | why |
    | --- | --- | --- | --- |
    | loading | the first tick | warming up | a resumed run begins with a high number |
    | warming up | `_FIRST_TICKS` ticks | watching | first ticks compile |
    | watching | no tick within the limit | stalled | reported once |
    | stalled | the tick number changes | watching | |

    The limit is `times` usual ticks, and `at_least_seconds` at least. A usual tick is the slowest
    of late: each new tick lowers the last maximum by a tenth at most, so a tick with an evaluation
    in it is usual for some time.

    Args:
        watch: when missing ticks are a stall.
        now_ns: the begin of the watch, in nanoseconds.
    """

    def __init__(self, watch: StallWatch, now_ns: int) -> None:
        self._watch = watch
        self._tick = self._changes = self._seen = 0
        self._since_ns = now_ns
        self._usual_ns = 0.0
        self._reported = False

    def look(self, tick: int, now_ns: int) -> float | None:
        """Seconds without a tick, if that has just become a stall; else None.

        Args:
            tick: the number of the running tick.
            now_ns: the time, in nanoseconds.
        """
        if tick != self._tick:
            self._changes += 1
            if self._changes > 1:
                ticks = max(tick - self._tick, 1)
                tick_ns = (now_ns - self._since_ns) / ticks
                self._seen += ticks
                self._usual_ns = max(tick_ns, 0.9 * self._usual_ns)
            self._tick, self._since_ns, self._reported = tick, now_ns, False
            return None
        waited_ns = now_ns - self._since_ns
        limit_ns = max(self._watch.times * self._usual_ns, self._watch.at_least_seconds * 1e9)
        if self._reported or self._seen < _FIRST_TICKS or waited_ns <= limit_ns:
            return None
        self._reported = True
        return waited_ns / 1e9


def stacks() -> str:
    """The stack of every Python thread of this process, from the names in its frames alone.

    No file is read or written: the threads may all wait for the disk with that file.
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


def load_what_notify_uses(watch: StallWatch) -> None:
    """Import the modules that `notify` needs, when the watch begins.

    `import metronorm.clock` does not need them, and in a stall an import may wait for the disk.
    """
    if watch.command or watch.webhook:
        import json  # noqa: F401
    if watch.command:
        import subprocess  # noqa: F401
    if watch.webhook:
        import urllib.request  # noqa: F401


def notify(watch: StallWatch, event: dict[str, Any], folder: Path | None = None) -> None:
    """Run the command and call the webhook; failures are logged, not raised.

    Args:
        watch: has the command and the webhook.
        event: the event's record.
        folder: the directory in which the command runs; None: the working directory.
    """
    if not (watch.command or watch.webhook):
        return
    import json

    message = json.dumps(event).encode()
    if watch.command:
        import subprocess

        try:
            subprocess.run(
                list(watch.command), input=message, timeout=_TIMEOUT_SECONDS, check=True, cwd=folder
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _log.warning("the stall command failed: %s", error)
    if watch.webhook:
        import urllib.request
        from http.client import HTTPException

        try:
            request = urllib.request.Request(
                watch.webhook, data=message, headers={"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
        except (OSError, ValueError, HTTPException) as error:
            _log.warning("the stall webhook failed: %s", error)
