"""The commands, as a user types them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm import __version__
from metronorm.cli import COMMANDS, main
from metronorm.clock import open_run

from ..train.tiny import write_text
from .test_bad_input import TINY


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == main(["-h"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"metronorm {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    options = re.findall(r"^│ (--[\w.-]+)[^│]*│\n", out, re.MULTILINE)
    bare = [
        name
        for name in options
        if re.search(rf"^│ {re.escape(name)} \S*\s*│\n[│╰] ?(-|─)", out, re.MULTILINE)
    ]
    assert bare == [], "options without a word of help"


def test_train_show_sample_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    assert main(["train", *TINY, "--sample-every", "2", "--sample-tokens", "20"]) == 0
    out, err = capsys.readouterr()
    assert "what it writes now" in out
    assert "the run is in runs/old" in out
    assert "--- tick 2 ---" in err

    assert main(["show", "runs/old"]) == 0
    out = capsys.readouterr().out
    for part in (
        "finished",
        "validation_loss",
        "tick, p95",
        "forward",
        "tokens/s",
        "peak memory",
        "fp32",
    ):
        assert part in out
    assert "┤" in out, "a chart"

    sampled = []
    for _ in range(2):
        assert main(["sample", "runs/old", "--tokens", "30", "--seed", "7", "--prompt", "a"]) == 0
        sampled.append(capsys.readouterr().out)
    assert sampled[0] == sampled[1]
    assert len(sampled[0]) == len("a") + 30 + len("\n")

    assert main(["train", "--resume", "runs/old"]) == 0, "a finished run has nothing left to do"
    assert len(open_run("runs/old").ticks().rows()) == 4


def test_runs_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    assert main(["train", *TINY]) == 0
    assert main(["train", *TINY, "--run", "runs/new", "--model.norm", "rms"]) == 0
    capsys.readouterr()
    assert main(["show", "runs/old", "runs/new", "--no-charts"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"model\.norm\s+│\s+layer\s+│\s+rms", out)
    assert "model.layers" not in out, "only what differs"
    assert "┤" not in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_with_a_stated_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    write_text(tmp_path / "text")
    child = subprocess.Popen(
        [sys.executable, "-m", "metronorm", "train", *TINY, "--ticks", "100000"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert child.stderr is not None
    child.stderr.readline()  # the first tick is told of
    os.kill(child.pid, number)
    err = child.stderr.read()
    assert child.wait() == code
    child.stderr.close()
    assert f"stopped by {number.name}" in err
    assert "metronorm train --resume runs/old" in err
    assert "Traceback" not in err


def test_output_into_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    command = f"{sys.executable} -m metronorm"
    done = subprocess.run(
        f"{command} train {' '.join(TINY)} > /dev/null 2>&1; {command} show runs/old | head -1",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
