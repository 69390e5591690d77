"""Boards for tests: a real server in a thread, and runs that the clock has recorded."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import TYPE_CHECKING, Any

import httpx

from metronorm.board.guard import Login
from metronorm.board.server import listen, make_server
from metronorm.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metronorm.board.server import Address

TOKEN = "a token that is only for tests"


class Served:
    """A board that runs; `client` is logged in, `stranger` is not."""

    def __init__(self, address: Address, root_path: str = "") -> None:
        self.url, self.port = f"{address.url}{root_path}", address.port
        self.origin = {"Origin": address.url}
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.stranger = httpx.Client(base_url=self.url, timeout=30)

    def json(self, path: str, **query: Any) -> Any:
        """The answer to a request that must succeed."""
        answer = self.client.get(f"/api/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def file(self, name: str) -> str:
        """The address of one of the page's files."""
        version = re.search(r'"page/(\w+)/main.js"', self.client.get("/").text)
        assert version
        folder, _, rest = name.partition("/")
        return f"/{folder}/{version[1]}/{rest}"

    def runs(self) -> dict[str, Any]:
        """What the list has of each run, by its name."""
        return {run["name"]: run for run in self.json("runs")["runs"]}


@contextlib.contextmanager
def serving(*roots: Path, port: int = 0, token: str = TOKEN, **options: Any) -> Iterator[Served]:
    """A board that runs until the block ends; options of `make_server`."""
    address, _ = listen("127.0.0.1", port)
    server = make_server(roots, address, Login(token), **options)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[address.socket]),))
    thread.start()
    served = Served(address, options.get("root_path", ""))
    try:
        answer = served.client.post("/api/login", json={"token": token})  # waits for the server
        assert answer.status_code == 204
        yield served
    finally:
        server.should_exit = True
        served.client.close()
        served.stranger.close()
        thread.join()
        address.socket.close()


def record(directory: Path, losses: list[float], **config: Any) -> None:
    """A finished run with these losses."""
    with Clock(directory, progress=False, config=config) as clock:
        for loss in clock.ticks(losses):
            clock.log(loss=loss, tokens=10)
