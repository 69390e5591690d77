"""`metronorm runs`, as a user types it."""

import io
import json
import sys
from pathlib import Path

import pytest

from metronorm.board.notes import read_notes
from metronorm.cli import main
from metronorm.clock import Clock


@pytest.fixture(autouse=True)
def three_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Created in the order b, a, c; c has a checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("b", "a", "deep/c"):
        with Clock(Path("runs", name), config={"ticks": 4}, progress=False) as clock:
            for _ in clock.ticks(range(3)):
                clock.log(loss=1.0)
    Path("runs/deep/c/checkpoints").mkdir()
    Path("runs/deep/c/checkpoints/model").write_bytes(bytes(1 << 20))


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["runs", *arguments, "--json"]) == 0
    return [run["directory"] for run in json.loads(capsys.readouterr().out)]


def test_runs_are_listed_with_their_size_the_newest_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert listed(capsys) == ["runs/deep/c", "runs/a", "runs/b"]
    assert listed(capsys, "runs/a", "runs/deep") == ["runs/deep/c", "runs/a"]
    assert main(["runs", "--last", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "ticks", "created", "size", "tags"]
    assert lines[1].split()[:5] == ["runs/deep/c", "finished", "3", "of", "4"]
    assert len(lines) == 4
    assert lines[3].startswith("2 of 3 runs, ")
    assert lines[3].endswith(" 1 MiB of it checkpoints")


def test_tags_are_those_of_the_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "runs/a", "runs/b", "--tag", "good", "slow"]) == 0
    assert main(["runs", "runs/b", "--untag", "slow"]) == 0
    assert read_notes(Path("runs/a")).tags == ("good", "slow")
    assert read_notes(Path("runs/b")).tags == ("good",)
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "good, slow" in capsys.readouterr().out


def test_archived_runs_are_not_in_the_list_until_they_are_restored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["runs", "runs/a", "--archive"]) == 0
    capsys.readouterr()
    assert listed(capsys) == ["runs/deep/c", "runs/b"]
    assert listed(capsys, "runs/.archive") == ["runs/.archive/a"]
    assert main(["runs", "runs/.archive/a", "--restore"]) == 0
    assert Path("runs/a/run.json").exists()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_a_deletion_is_asked_for_on_a_terminal(
    answer: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO(answer + "\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["runs", "runs/a", "--delete"]) == code
    assert Path("runs/a").exists() == bool(code)
    assert "runs/a: finished, 3 ticks" in capsys.readouterr().out


def test_without_a_terminal_a_deletion_needs_yes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["runs", "runs/a", "--delete"]) == 2
    assert "no terminal to ask at; try: --yes" in capsys.readouterr().err
    assert main(["runs", "runs/a", "--delete", "--yes"]) == 0
    assert not Path("runs/a").exists()


def test_a_damaged_run_is_listed_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/a/run.json").write_text("{")
    assert main(["runs"]) == 2
    out, err = capsys.readouterr()
    assert "damaged" in out
    assert "finished" in out
    assert "runs/a: " in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/a", "--archive", "--delete"], "one of these at a time; got --archive, --delete"),
        (["runs/a", "--untag", "x", "--delete"], "at a time; got --delete, --untag"),
        (["runs/a", "--tag", "x", "--untag", "x"], "got both for 'x'"),
        (["runs/a", "--tag", ""], "a tag must have a letter"),
        (["--delete"], "name the runs that are to change"),
        (["nothing"], "got nothing, which is none"),
        (["runs", "--archive"], "runs, which has none"),
        (["--last", "0"], "--last must be at least 1"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
