"""The board as a service: the unit of docs/board.md, as systemd reads it and as it runs."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .boards import TOKEN, record

PAGE = Path(__file__).parents[2] / "docs" / "board.md"
ANALYZE = shutil.which("systemd-analyze")
PROGRAM, RUNS, PORT = "/opt/metronorm/bin/metronorm", "/data/runs", "8765"


def unit() -> str:
    """The unit of the docs."""
    (found,) = re.findall(r"^```ini\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return str(found)


def test_its_command_serves_the_runs_and_ends_with_sigterm(tmp_path: Path) -> None:
    record(tmp_path / "one", [1.0])
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit())
    program, *words = shlex.split(parser["Service"]["ExecStart"])
    assert program == PROGRAM
    assert {RUNS, PORT} <= set(words)
    words = [{RUNS: str(tmp_path), PORT: "0"}.get(word, word) for word in words]
    board = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "metronorm", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"METRONORM_BOARD_TOKEN": TOKEN},
    )
    try:
        assert board.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/board/", board.stdout.readline())
        assert found
        proxied = {"Host": "board.example.org", "Origin": "https://board.example.org"}
        with httpx.Client(base_url=found[0], headers=proxied, timeout=30) as client:
            login = client.post("api/login", json={"token": TOKEN})
            assert login.status_code == 204
            cookie = {"Cookie": login.headers["set-cookie"].partition(";")[0]}
            runs = client.get("api/runs", headers=cookie).json()["runs"]
        assert [run["name"] for run in runs] == ["one"]
        board.terminate()
        assert board.wait(60) == 0  # what Restart=on-failure leaves alone
    finally:
        board.kill()
        board.communicate()


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
def test_systemd_understands_it(tmp_path: Path) -> None:
    file = tmp_path / "metronorm-board.service"
    text = unit().replace(PROGRAM, sys.executable)
    for content, is_right in ((text, True), (text.replace("Restart=", "Restrat="), False)):
        file.write_text(content)
        done = subprocess.run(
            [str(ANALYZE), "verify", "--man=no", file], capture_output=True, text=True, check=False
        )
        said = [line for line in done.stderr.splitlines() if file.name in line]
        assert (said == []) == is_right, done.stderr
