"""A page of Chromium, filmed: when its first chart is there, and what the server sent for it.

The browser itself films (the screencast of its DevTools protocol gives every frame that it painted,
with the time). A chart is there with the first frame from which on its plotted area is as at the
end, and the end is when the area has not changed for a second: the same question to every page,
whatever it is made of, and whatever ticks beside the chart.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from playwright.sync_api import Error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page, Request, ViewportSize

VIEWPORT: ViewportSize = {"width": 1440, "height": 900}
_LIKE, _FAR = 0.002, 40  # the share of pixels that may differ; from where on one does, of 255
_STILL_SECONDS, _EMPTY_SECONDS = 1.0, 5.0
_COLORED, _PIXELS_OF_A_LINE = 20, 50  # from where on a pixel has a colour; how many a line has

Frame = tuple[float, bytes]


class Film(NamedTuple):
    """A page that was opened.

    `seconds` until its chart was there, its last frame, its HTML then, and the answers it got.
    """

    seconds: float
    last: bytes
    html: str
    bodies: list[bytes]

    def has_tick(self, tick: int) -> bool:
        """Whether a tick is a number of what was sent: of JSON, or of 8 bytes."""
        forms = {struct.pack(order, tick) for order in ("<d", ">d", "<q", ">q")}
        return any(
            any(form in body for form in forms) or _has_number(_parsed(body), tick)
            for body in self.bodies
        )

    def save(self, path: Path) -> None:
        """Keep the last frame, to be looked at."""
        path.write_bytes(self.last)


@contextlib.contextmanager
def visitor(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody whose browser has nothing in its cache."""
    context = browser.new_context(viewport=VIEWPORT)
    yield context
    context.close()


def film(
    context: BrowserContext,
    url: str,
    chart: str,
    *,
    last_tick: int | None = None,
    most_seconds: float = 240,
) -> Film:
    """Open a page and film it until its first chart is whole and still.

    Args:
        context: of the visitor.
        url: the page.
        chart: a selector of the plotted area.
        last_tick: the chart is whole if this was sent; until then the page is loaded again.
        most_seconds: after which this fails.

    Raises:
        TimeoutError: the chart is not there in time.
    """
    page = context.new_page()
    frames: list[Frame] = []
    finished: list[Request] = []
    devtools = context.new_cdp_session(page)

    def take(frame: dict[str, Any]) -> None:
        frames.append((frame["metadata"]["timestamp"], base64.b64decode(frame["data"])))
        with contextlib.suppress(Error):  # the page has just been closed
            devtools.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})

    def is_waiting() -> bool:
        return not asked <= set(finished)

    devtools.on("Page.screencastFrame", take)
    asked: set[Request] = set()
    page.on("request", lambda request: asked.add(request))
    page.on("requestfailed", lambda request: asked.discard(request))
    page.on("requestfinished", lambda request: finished.append(request))
    page.wait_for_timeout(1500)  # a new window loads pages of Chromium's own
    devtools.send("Page.startScreencast", {"format": "png"})
    begun = time.time()
    page.goto(url, wait_until="commit")
    while True:
        box = _wait_until_still(page, chart, frames, begun + most_seconds, is_waiting)
        found = Film(_there(frames, box) - begun, frames[-1][1], page.content(), _bodies(finished))
        if last_tick is None or found.has_tick(last_tick):
            break
        finished.clear()
        asked.clear()
        page.reload(wait_until="commit")
    page.close()
    return found


Box = tuple[int, int, int, int]  # left, top, right, bottom


def _wait_until_still(
    page: Page, chart: str, frames: list[Frame], until: float, is_waiting: Callable[[], bool]
) -> Box:
    """The area of the chart, once it has a line and has not changed for a second.

    A page without any chart that waits for nothing is loaded again: it may have been opened before
    there were numbers.
    """
    before, since = None, time.time()
    while time.time() < until:
        page.wait_for_timeout(250)
        box = page.locator(chart).first.bounding_box() if page.locator(chart).count() else None
        if box is None or not frames or box["height"] < 1:
            if is_waiting():
                since = time.time()
            elif time.time() - since > _EMPTY_SECONDS:
                page.reload(wait_until="commit")
                since = time.time()
            continue
        left, top = max(0, int(box["x"])), max(0, int(box["y"]))
        area = (left, top, int(box["x"] + box["width"]), int(box["y"] + box["height"]))
        now = _pixels(frames[-1][1], area)
        if before is None or not _alike(now, before) or not _has_line(now):
            before, since = now, time.time()
        elif time.time() - since >= _STILL_SECONDS:
            return area
    raise TimeoutError(f"no chart of {page.url} came to rest")


def _there(frames: list[Frame], box: Box) -> float:
    """The time of the first frame from which on an area is as at the end."""
    last = _pixels(frames[-1][1], box)
    at, before = frames[-1]
    for time_of, data in reversed(frames):
        if data != before and not _alike(_pixels(data, box), last):
            break
        at, before = time_of, data
    return at


def _pixels(png: bytes, box: Box) -> Any:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB").crop(box), dtype=np.int16)


def _alike(one: Any, other: Any) -> bool:
    if one.shape != other.shape:
        return False
    return bool((abs(one - other).max(2) > _FAR).mean() <= _LIKE)


def _has_line(area: Any) -> bool:
    """Whether there are pixels with a colour, as lines have: texts, axes and rotors are grey."""
    return bool(((area.max(2) - area.min(2)) > _COLORED).sum() > _PIXELS_OF_A_LINE)


def _bodies(finished: list[Request]) -> list[bytes]:
    """The answers that are no files of the page."""
    found = []
    for request in list(finished):
        with contextlib.suppress(Exception):  # the browser has kept nothing of it
            answer = request.response()
            kind = answer.headers.get("content-type", "") if answer else "html"
            if answer and not any(each in kind for each in _FILES):
                found.append(answer.body())
    return found


_FILES = ("javascript", "css", "html", "font", "image", "event-stream", "wasm")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _has_number(value: Any, wanted: int) -> bool:
    match value:
        case bool():
            return False
        case int() | float():
            return value == wanted
        case dict():
            return any(_has_number(each, wanted) for each in value.values())
        case list():
            return any(_has_number(each, wanted) for each in value)
    return False
