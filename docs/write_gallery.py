"""Take the pictures of `gallery.md`: train three models, and open the board on their runs.

    python docs/write_gallery.py FOLDER

Runs that are missing in FOLDER are trained first: a GPT on Shakespeare, 300 ticks each, some
minutes on two cores. It needs Chromium, `playwright` and `metronorm[train,board]`; `make test`
installs these. The pictures are of real runs, so those of another machine differ in their numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from playwright.sync_api import sync_playwright

from metronorm.board.guard import Login
from metronorm.board.server import listen, make_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

PICTURES = Path(__file__).with_name("gallery")
OPTIONS = (
    "--ticks 300 --batch-size 4 --evaluate-every 50 --evaluate-tokens 4096 --checkpoint-every 100 "
    "--sample-every 100 --sample-tokens 100"
)
RUNS = {
    "muon": "--optimizer.name ticks_muon",
    "muon-rms": "--optimizer.name ticks_muon --model.norm rms",
    "adamw": "--optimizer.name adamw --optimizer.learning-rate 0.002",
}
MOST_BYTES = 150_000


class Picture(NamedTuple):
    """A view of the board.

    Args:
        name: of the file, without its ending.
        address: the fragment of the view; {RUN} is replaced by the run's id.
        width, height: of the window, in pixels.
        dark: whether the reader prefers dark pages.
    """

    name: str
    address: str
    width: int = 1200
    height: int = 800
    dark: bool = False


PICTURE_LIST = (
    Picture("runs", "runs"),
    Picture("metrics", "metrics?run={muon}", dark=True),
    Picture("ticks", "ticks?run={muon}"),
    Picture("compare", "compare?run={adamw}&a={muon}"),
    Picture("phone", "metrics?run={muon}", 390, 780, dark=True),
)


def train_missing(folder: Path) -> None:
    """Train those of the runs that are not in the folder."""
    for name, options in RUNS.items():
        if not (folder / name).exists():
            command = [sys.executable, "-m", "metronorm", "train", "--run", str(folder / name)]
            subprocess.run([*command, *OPTIONS.split(), *options.split()], check=True)


@contextlib.contextmanager
def board(folder: Path, token: str) -> Iterator[str]:
    """A board of the runs of a folder, until the block ends; its address."""
    address, _ = listen("127.0.0.1", 0)
    server = make_server((folder,), address, Login(token))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[address.socket]),))
    thread.start()
    try:
        yield address.url
    finally:
        server.should_exit = True
        thread.join()
        address.socket.close()


def take(page: Page, picture: Picture, ids: dict[str, str]) -> None:
    """Open a view, wait until its charts are there, and keep a picture of it."""
    page.evaluate("address => { location.hash = address }", picture.address.format(**ids))
    page.wait_for_selector(f".view-{picture.address.partition('?')[0]}")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)  # the charts are drawn, and at rest
    path = PICTURES / f"{picture.name}.png"
    page.screenshot(path=path)
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} must have at most {MOST_BYTES:,} bytes")


def main(folder: Path) -> None:
    """Take all pictures."""
    train_missing(folder)
    PICTURES.mkdir(exist_ok=True)
    token = secrets.token_urlsafe()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with board(folder, token) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for picture in PICTURE_LIST:
            context = browser.new_context(
                viewport={"width": picture.width, "height": picture.height},
                color_scheme="dark" if picture.dark else "light",
                locale="en-US",
            )
            page = context.new_page()
            page.goto(f"{url}/#token={token}")
            page.wait_for_selector(".view-runs")
            listed = page.evaluate("fetch('/api/runs').then(answer => answer.json())")["runs"]
            take(page, picture, {run["name"]: run["id"] for run in listed})
            context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
