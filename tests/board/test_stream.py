"""The stream tells what has changed, to everybody who listens, and ends with the server."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from metronorm.board import stream
from metronorm.board.listing import Listing
from metronorm.board.notes import change_notes
from metronorm.clock import Clock

from .boards import Served, record, serving


class Listener:
    """Reads a stream, event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> tuple[str, str, Any]:
        """The id, name and data of the next event."""
        found = {}
        while line := next(self._lines):
            name, _, value = line.partition(": ")
            found[name] = value
        return found["id"], found["event"], json.loads(found["data"])

    def rest(self) -> list[str]:
        """All lines until the stream ends."""
        return [*self._lines]

    def until(self, run: str, **wanted: Any) -> dict[str, Any]:
        """What is told of a run, as soon as it has these values."""
        while True:
            _, name, data = self.next()
            for change in data["runs"] if name == "runs" else ():
                if change["id"] == run and wanted.items() <= change.items():
                    return dict(change)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Served]:
    record(tmp_path / "old", [1.0])
    with serving(tmp_path) as served:
        while served.runs()["old"]["state"] is None:
            pass
        yield served


def test_a_run_is_told_from_its_beginning_to_its_end(tmp_path: Path, board: Served) -> None:
    since = board.json("runs")["cursor"]
    with board.client.stream("GET", "/api/stream", params={"since": since}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-store"
        assert "content-encoding" not in response.headers
        listener = Listener(response)
        with Clock(tmp_path / "new", progress=False, config={"ticks": 2}) as clock:
            ticks = clock.ticks([1, 2])
            next(ticks)
            clock.log(loss=1.0)
            next(ticks)
            run = board.runs()["new"]["id"]
            told = listener.until(run, state="running", tick=1)
            assert (told["total"], told["stalled"], told["name"]) == (2, False, "new")
            list(ticks)
        listener.until(run, state="finished", tick=2)
        change_notes(tmp_path / "new", {"starred": True})
        shutil.rmtree(tmp_path / "new")
        listener.until(run, gone=True)


def test_who_comes_back_gets_what_was_missed(tmp_path: Path, board: Served) -> None:
    before = board.json("runs")["cursor"]
    run = board.runs()["old"]["id"]
    assert board.client.put(f"/api/runs/{run}/notes", json={"tags": ["x"]}).is_success
    headers = {"Last-Event-ID": before}
    with board.client.stream("GET", "/api/stream", headers=headers) as response:
        told, name, data = Listener(response).next()
    assert name == "runs"
    assert [(change["id"], change["tags"]) for change in data["runs"]] == [(run, ["x"])]
    assert told == board.json("runs")["cursor"]


@pytest.mark.parametrize("since", ["", "nonsense", "0-0", "-5", "\u0661", "SERVER-" + "9" * 5000])
def test_who_knows_another_server_starts_again(board: Served, since: str) -> None:
    since = since.replace("SERVER", board.json("runs")["cursor"].partition("-")[0])
    with board.client.stream("GET", "/api/stream", params={"since": since}) as response:
        assert Listener(response).next()[1:] == ("reset", {})


def test_a_quiet_stream_has_comments(board: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "COMMENT_SECONDS", 0.01)
    since = board.json("runs")["cursor"]
    with board.client.stream("GET", "/api/stream", params={"since": since}) as response:
        assert next(response.iter_lines()) == ": still here"


def test_after_an_unforeseen_error_who_listens_comes_back(
    tmp_path: Path, board: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Listing) -> None:
        raise ZeroDivisionError

    since = board.json("runs")["cursor"]
    with monkeypatch.context() as patch:
        patch.setattr(Listing, "look", broken)
        with board.client.stream("GET", "/api/stream", params={"since": since}) as response:
            assert Listener(response).rest() == []
    with board.client.stream("GET", "/api/stream", params={"since": since}) as response:
        record(tmp_path / "new", [1.0])
        assert Listener(response).next()[1] == "runs"


def test_listeners_are_counted_and_forgotten(
    board: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_LISTENERS", 2)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(board.client.stream("GET", "/api/stream")) for _ in range(2)]
        listeners = [Listener(response) for response in opened]
        assert [listener.next()[1] for listener in listeners] == ["reset", "reset"]
        assert status_of_a_stream(board) == 503
    while status_of_a_stream(board) == 503:
        pass  # the server sees after a moment that the two have gone


def status_of_a_stream(board: Served) -> int:
    with board.client.stream("GET", "/api/stream") as response:
        return response.status_code


def test_open_streams_do_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    with httpx.Client(timeout=30) as client:
        with serving(tmp_path) as served:
            client.cookies = served.client.cookies
            request = client.build_request("GET", f"{served.url}/api/stream")
            listener = Listener(client.send(request, stream=True))
            assert listener.next()[1] == "reset"
        assert listener.rest() == []  # it ended as it should, and was not cut off
