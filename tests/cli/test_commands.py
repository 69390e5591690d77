"""The commands, as a user types them, and their help."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from metronorm import __version__
from metronorm.cli import COMMANDS, main
from metronorm.runs import open_run

from ..full_disk import fill, small_disk
from ..train.acting import at_every_tick
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
    assert options or command == "seal"
    bare = [
        name
        for name in options
        if re.search(rf"^│ {re.escape(name)} \S*\s*│\n[│╰] ?(-|─)", out, re.MULTILINE)
    ]
    assert bare == [], "options without a word of help"


def help_of(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The help of a command in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


# there are plainer words: wrong for amiss, reported for told, CPU for processor, new for fresh
UNUSUAL = re.compile(
    r"\b(amiss|apart|parted|fresh|told|tells?|said|processors?|comes? late|of so many|whose)\b"
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_one_sentence_examples_and_options_in_80_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = help_of(command, monkeypatch, capsys)
    usage, sentence, examples, _ = page.split("\n\n", 3)
    assert usage.startswith(f"usage: metronorm {command} ")
    assert sentence == COMMANDS[command]
    assert [line for line in page.splitlines() if len(line) > 80] == []
    assert 2 <= len(examples.splitlines()) <= 4
    for example in examples.splitlines():
        assert example.startswith(f"    metronorm {command}")
        options = re.findall(r" (--[\w-]+)", example)
        for option in options:
            assert re.search(rf"^│.* {option}[ ,]", page, re.MULTILINE), option
    assert UNUSUAL.findall(page) == []


def test_the_list_of_commands_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert [line for line in page.splitlines() if len(line) > 80] == []
    assert all(f"  {name:<10} {purpose}\n" in page for name, purpose in COMMANDS.items())
    examples = re.findall(r"^  metronorm (\w+) ", page, re.MULTILINE)
    assert examples
    assert {*examples} <= {*COMMANDS}
    assert UNUSUAL.findall(page) == []


def test_help_fits_into_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main(["diagnose", "--help"])
    usage, sentence, _ = capsys.readouterr().out.split("\n\n", 2)
    assert usage == (
        "usage: metronorm diagnose [-h] RUN [RUN ...] [--json]\n"
        "        [--fail-on {never,warning,critical}]"
    )
    assert sentence == COMMANDS["diagnose"]


def test_line_breaks_in_the_docstring_of_an_option_are_spaces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = help_of("import", monkeypatch, capsys)
    lines = re.findall(r"│ RUN +(.*?) +│\n│ +(.*?) +│\n╰", page)
    assert lines == [
        (
            "A new directory for the run. If the source holds several runs,",
            "each gets a directory in it. (required)",
        )
    ]


def test_help_and_errors_without_utf8_have_no_boxes() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "metronorm", "seal"]
    done = subprocess.run(
        [*command, "--help"], env=environment, capture_output=True, text=True, check=True
    )
    assert "RUN [RUN ...]  Directories of the runs. (required)" in done.stdout
    assert "\\u" not in done.stdout
    done = subprocess.run(
        [*command, "--now"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ("metronorm seal: there is no option --now; try: metronorm seal --help\n")


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


def test_a_command_to_go_on_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    run = "runs/it's a run; $HOME"
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGTERM) if tick == 2 else None):
        assert main(["train", *TINY, "--run", run, "--cache", "my cache"]) == 143
    err = capsys.readouterr().err
    metronorm, train, *options = shlex.split(err.partition("go on with: ")[2])
    assert (metronorm, train) == ("metronorm", "train")
    assert options == ["--resume", run, "--cache", str(tmp_path / "my cache")]
    assert main(["train", *options]) == 0
    out = capsys.readouterr().out
    command = re.findall("again this table: (.*)", out)[0]
    assert shlex.split(command) == ["metronorm", "show", run]
    assert len(open_run(run).ticks().rows()) == 4


def test_a_last_checkpoint_that_cannot_be_written_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")

    def act(tick: int) -> None:
        if tick == 3:
            for thread in threading.enumerate():  # the checkpoint of tick 2 is being written
                if thread.name == "metronorm-checkpoint":
                    thread.join()
            fill(disk)

    with small_disk(tmp_path / "disk", "2m") as disk:
        with at_every_tick(act):
            options = ["--run", "disk/run", "--keep", "1", "--evaluate-every", "9"]
            assert main(["train", *TINY, *options]) == 3
        out, err = capsys.readouterr()
        assert out == "", "it does not print a sample, as after success"
        line = err.splitlines()[-1]
        assert line.startswith("metronorm train: the checkpoint of the last tick, 4, could not be")
        assert "the newest there is of tick 2; make room, then go on with: " in line
        (disk / "ballast").unlink()
        assert main(["train", *shlex.split(line.partition("go on with: ")[2])[2:]]) == 0


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
    child.stderr.readline()  # the progress of the first tick
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
