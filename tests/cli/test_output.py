"""Where the output goes: a reader that leaves, an encoding without our characters."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.cli import main

from ..train.tiny import write_text
from .test_bad_input import TINY

METRONORM = [sys.executable, "-m", "metronorm"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over text with characters that ASCII lacks."""
    folder = tmp_path_factory.mktemp("output")
    write_text(folder / "text")
    (folder / "text" / "more.txt").write_text("übermäßig größer, 一二三四五六七八九十\n" * 200)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["train", *TINY]) == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "old"


@pytest.mark.parametrize("command", ["sample", "show", "--help"])
def test_a_reader_that_leaves_is_no_error(command: str, run: Path) -> None:
    argv = [command, str(run)] if command != "--help" else ["train", "--help"]
    reading, writing = os.pipe()
    os.close(reading)  # the reader has gone before the first byte
    try:
        done = subprocess.run(
            [*METRONORM, *argv], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.parametrize("command", ["sample", "show"])
def test_an_encoding_without_our_characters_gets_escapes(command: str, run: Path) -> None:
    argv = [*METRONORM, command, str(run)]
    if command == "sample":
        argv += ["--prompt", "größer 一", "--tokens", "5"]
    done = subprocess.run(
        argv, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert done.stderr == b""
    assert done.returncode == 0
    if command == "sample":
        assert done.stdout.startswith(rb"gr\xf6\xdfer \u4e00")


@pytest.mark.parametrize("command", ["sample", "show"])
def test_an_output_without_room_is_one_line(command: str, run: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*METRONORM, command, str(run)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    message = "the output must have room; got No space left on device"
    assert done.stderr == f"metronorm {command}: {message}\n"
    assert done.returncode == 2


@pytest.mark.parametrize("command", ["sample", "show"])
def test_a_closed_output_is_no_error(command: str, run: Path) -> None:
    words = shlex.join([*METRONORM, command, str(run)])
    done = subprocess.run(["sh", "-c", f"{words} >&-"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_a_prompt_is_read_in_a_locale_that_lacks_its_characters(run: Path) -> None:
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*METRONORM, "sample", str(run), "--prompt", "größer 一", "--tokens", "0"],
        env={**os.environ, **bare, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=False,
    )
    assert done.stdout.decode() == "größer 一\n", done.stderr
    assert done.returncode == 0


def test_a_prompt_that_is_no_text_is_one_line(run: Path) -> None:
    done = subprocess.run(
        [*METRONORM, "sample", str(run), "--prompt", b"a\xff"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "metronorm sample: --prompt must be UTF-8 text; got 'a\\udcff'\n"
