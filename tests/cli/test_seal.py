"""`metronorm seal` on runs with odd names, damaged parts and foreign files."""

import os
from pathlib import Path

import pytest

from metronorm.cli import main
from metronorm.store.tape import LIVE

from ..store.stores import files, line, new_run, numbers, write_tape


def test_a_name_with_characters_of_patterns_means_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It does not mean the damaged run beside it, which the name would match as a pattern."""
    monkeypatch.chdir(tmp_path)
    damaged = write_tape(new_run(tmp_path / "run1"), [line(7)], [])
    assert main(["seal", "run1"]) == 0
    (damaged / "part-00000.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    folder = write_tape(new_run(tmp_path / "run[1]"), [line(1)], [line(2)])
    assert main(["seal", "run[1]"]) == 0
    assert main(["seal", "run[1]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "run1: 1 part sealed",
        "run[1]: 2 parts sealed",
        "run[1]: 0 parts sealed",
    ]
    assert files(folder) == ["part-00000.parquet", "part-00001.parquet"]
    assert numbers(tmp_path / "run[1]") == [1, 2]
    assert files(damaged) == ["part-00000.parquet"], "seal has not looked there"


def test_a_part_that_is_set_aside_is_reported_with_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tape(new_run(tmp_path / "run"), [line(7)], [])
    assert main(["seal", str(tmp_path / "run")]) == 0
    (folder / "part-00000.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert main(["seal", str(tmp_path / "run")]) == 0
    assert "part-00000.parquet cannot be read; it is kept as _part-00000.parquet" in caplog.text


def test_a_pipe_in_place_of_a_tape_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tape(new_run(tmp_path / "run"), [line(1)])
    (folder / LIVE).unlink()
    os.mkfifo(folder / LIVE)
    assert main(["seal", str(tmp_path / "run")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert str(folder / LIVE) in error
