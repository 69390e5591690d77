"""`metronorm board` as a process: its address, its port, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from metronorm.board.server import PORT, listen, names_of, user_of
from metronorm.cli import main
from metronorm.errors import ConfigError

from ..board.boards import TOKEN, record


@contextmanager
def board(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process of a board, its address and its token."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "metronorm", "board", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"the board is at (http://\S+)/#token=(\S+)\n", line)
        assert found, line + (process.stderr.read() if process.stderr and not line else "")
        assert process.stdout.readline() == "stop it with Ctrl-C\n"
        yield process, found[1], found[2]
    finally:
        process.kill()
        process.communicate()


def ends(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """The exit code and what was printed to standard error, after a signal."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_serves_and_ends_with_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    record(tmp_path / "one", [1.0])
    with board(str(tmp_path), "--port", "0", "--no-open") as (process, url, token):
        client = httpx.Client(base_url=url, timeout=30)
        assert "<title>" in client.get("/").text
        assert client.get("/api/runs").status_code == 401
        assert client.post("/api/login", json={"token": token}).status_code == 204
        assert [run["name"] for run in client.get("/api/runs").json()["runs"]] == ["one"]
        with client.stream("GET", "/api/stream") as stream:
            assert next(stream.iter_lines()).startswith("id: ")
            code, errors = ends(process, number)
        client.close()
    assert (code, errors) == (0, "")


def test_the_token_of_the_environment_is_the_token(tmp_path: Path) -> None:
    arguments = (str(tmp_path), "--port", "0", "--no-open")
    with board(*arguments, METRONORM_BOARD_TOKEN=TOKEN) as (_, url, token):
        assert unquote(token) == TOKEN
        answer = httpx.post(f"{url}/api/login", json={"token": TOKEN}, timeout=30)
        assert answer.status_code == 204


def test_the_browser_gets_a_ticket_and_not_the_token(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}.new\nmv {opened}.new {opened}\n')
    browser.chmod(0o755)
    with board(str(tmp_path), "--port", "0", BROWSER=f"{browser} %s &") as (_, url, token):
        while not opened.exists():
            pass
        address, _, ticket = opened.read_text().partition("/#token=")
        assert address == url
        assert ticket != token
        codes = [
            httpx.post(f"{url}/api/login", json={"token": ticket}, timeout=30).status_code
            for _ in range(2)
        ]
    assert codes == [204, 401]


def test_without_a_browser_the_address_is_enough(tmp_path: Path) -> None:
    nowhere = {"BROWSER": "", "PATH": str(tmp_path), "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    with board(str(tmp_path), "--port", "0", **nowhere) as (process, url, _):
        assert httpx.get(url, timeout=30).status_code == 200
        code, errors = ends(process, signal.SIGINT)
    assert code == 0
    assert errors == "metronorm board: there is no browser: open the address by hand\n"


def test_a_taken_port_is_named_with_its_user_and_another_is_offered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["board", str(tmp_path), "--port", str(port), "--no-open"]) == 2
    error = capsys.readouterr().err
    found = re.fullmatch(
        r"metronorm board: the port must be free; got port (\d+), which process (\d+) \(.*\) uses; "
        r"try: --port (\d+)\n",
        error,
    )
    assert found, error
    assert (int(found[1]), int(found[2])) == (port, os.getpid())
    with listen("127.0.0.1", int(found[3]))[0].socket:
        pass


def test_without_an_option_the_next_free_port_is_taken(tmp_path: Path) -> None:
    first, _ = listen("127.0.0.1", None)
    with first.socket:
        second, taken = listen("127.0.0.1", None)
        with second.socket:
            assert second.port > first.port >= PORT
            assert taken is not None
            if first.port == PORT:  # no board runs on this machine
                assert f"process {os.getpid()} (" in taken


def test_a_port_of_nobody_that_can_be_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert user_of(port) == "another program"


CASES: dict[str, tuple[list[str], str]] = {
    "a file": (["FILE"], "the board shows folders that hold runs, or runs; got FILE, a file"),
    "a port": (["--port", "70000"], "a port must be from 0 to 65535; got 70000; try: 8765"),
    "a host": (["--host", "no.such.host.invalid"], "--host must be a name or address of this mach"),
    "no host": (["--host", "a..b"], "--host must be a name or address of this machine; got 'a..b'"),
    "a star": (["--host", "*"], "--host must be a name or address of this machine; got '*'"),
    "a path": (
        ["--root-path", "/a\r\nb"],
        "--root-path must be names of letters, digits, and . _ ",
    ),
    "a path up": (["--root-path", "/a/../b"], "--root-path must be names of letters, digits, and "),
    "another's address": (["--host", "192.0.2.1"], "--host must be a name or address of this mach"),
    "a name": (["--allow-host", "a b/c"], "--allow-host must be the name of a host; got 'a b/c'"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    arguments, expected = CASES[case]
    file = str(tmp_path / "file")
    arguments = [file if argument == "FILE" else argument for argument in arguments]
    if case != "a file":
        arguments += [str(tmp_path), "--no-open"]
        arguments += [] if case == "a port" else ["--port", "0"]
    assert main(["board", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"metronorm board: {expected.replace('FILE', file)}")
    assert error.count("\n") == 1


def test_a_short_token_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("METRONORM_BOARD_TOKEN", "secret")
    assert main(["board", str(tmp_path), "--no-open"]) == 2
    error = capsys.readouterr().err
    assert "METRONORM_BOARD_TOKEN must have at least 20 characters" in error
    assert "secret;" not in error
    monkeypatch.setenv("METRONORM_BOARD_TOKEN", "secret \udcff" * 5)
    assert main(["board", "a" * 300, str(tmp_path), "--no-open"]) == 2
    error = capsys.readouterr().err
    assert f"{'a' * 300} does not exist yet" in error
    assert "METRONORM_BOARD_TOKEN must have letters, digits and signs of ASCII only" in error
    assert "secret " not in error


def test_without_uplot_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metronorm.board import uplot

    monkeypatch.setattr(uplot, "is_whole", lambda _: False)
    assert main(["board", str(tmp_path), "--port", "0", "--no-open"]) == 2
    assert capsys.readouterr().err == (
        "metronorm board: the board's page needs uPlot; got a package that was built without npm; "
        f"try: {sys.executable} -m metronorm.board.uplot\n"
    )


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_the_extra_it_says_which(package: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from metronorm.cli import main; sys.exit(main(['board', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"needs the package '{package}'; try: pip install 'metronorm[board]'" in done.stderr


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = str(tmp_path / "later")
    with board(missing, "--port", "0", "--no-open") as (process, _, _):
        _, errors = ends(process, signal.SIGINT)
    expected = f"{missing} does not exist yet; its runs will be shown when they begin"
    assert errors == f"metronorm board: {expected}\n"


def test_the_names_of_a_board(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"localhost", "127.0.0.1", "::1"}
    assert names_of("127.0.0.1") == own
    assert names_of("localhost", ["Board.Example.Org"]) == {*own, "board.example.org"}
    assert names_of("::1", ["fe80::1"]) == {*own, "fe80::1"}
    monkeypatch.setattr(socket, "gethostname", lambda: "Machine")
    assert {*own, "machine"} <= names_of("0.0.0.0")
    assert "0.0.0.0" not in names_of("0.0.0.0")
    for name in ("a/b", "a b", "", "x@y", "a/", "é"):
        with pytest.raises(ConfigError, match="--allow-host must be the name"):
            names_of("127.0.0.1", [name])


def test_other_machines_are_a_matter_of_a_warning(tmp_path: Path) -> None:
    arguments: Any = (str(tmp_path), "--host", "0.0.0.0", "--port", "0", "--no-open")
    with board(*arguments) as (process, url, token):
        assert url.startswith("http://127.0.0.1:")
        assert httpx.post(f"{url}/api/login", json={"token": token}, timeout=30).is_success
        _, errors = ends(process, signal.SIGINT)
    assert "without encryption" in errors
