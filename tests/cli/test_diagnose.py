"""`metronorm diagnose`, as a user types it."""

import json
import re
from pathlib import Path

import pytest

from metronorm.cli.diagnose import main
from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError

from ..store.tapes import Phases, write_event, write_training


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A healthy run, one that waits for its data, and one that failed."""

    def wait(tick: int, rank: int, phases: Phases) -> None:
        phases["data"] += 30

    write_training(tmp_path / "well", 0, ticks=100)
    write_training(tmp_path / "slow", 0, ticks=100, plant=wait)
    run = write_training(tmp_path / "failed", 0, ticks=100, plant=wait)
    write_event(run, "end", tick=101, error="ValueError", message="[red]\x1b[2J shape")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_what_is_printed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["well", "failed"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [
        "well: nothing found",
        "failed",
        "critical  failed",
        r"The run ended with ValueError at tick 101: [red]\x1b[2J shape.",
    ]
    assert lines[6] == "warning  data-bound"
    assert re.match(r"23\.\d% of the time is spent waiting for data: 31 ms a tick", lines[7])
    assert lines[8].startswith("Nearly every tick waits")
    assert re.match(r"share 23\.\d% · rank 0 · mean 31 ms · median 31 ms", lines[9])


def test_lines_of_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["well", "failed", "slow", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    listed = [(finding["run"], finding["rule"], finding["severity"]) for finding in found]
    assert listed == [
        ("failed", "failed", "critical"),
        ("failed", "data-bound", "warning"),
        ("slow", "data-bound", "warning"),
    ]
    assert found[0]["ticks"] == [101]
    assert found[2]["evidence"]["share"] == pytest.approx(31 / 130, abs=0.002)
    assert set(found[0]) == {"run", "rule", "severity", "what", "advice", "evidence", "ticks"}


@pytest.mark.parametrize(
    ("named", "severity", "code"),
    [
        (["well"], "warning", 0),
        (["well", "slow"], "warning", 1),
        (["well", "slow"], "critical", 0),
        (["failed", "well"], "critical", 1),
        (["failed"], "never", 0),
    ],
)
def test_fail_on_ends_a_pipeline(runs: Path, named: list[str], severity: str, code: int) -> None:
    assert main([*named, "--fail-on", severity]) == code
    assert main([*named, "--json", "--fail-on", severity]) == code


def test_what_cannot_be_diagnosed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"diagnose needs a run; try: metronorm diagnose"):
        main([])
    with pytest.raises(RunError, match="missing, which does not exist"):
        main(["missing"])
    assert main(["well", "missing"]) == 2
    assert "well: nothing found" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="fail-on"):
        main(["well", "--fail-on", "everything"])


def test_a_run_without_ticks_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Clock(tmp_path / "run", progress=False):
        pass
    assert main([str(tmp_path / "run")]) == 0
    assert "no ticks are on record" in capsys.readouterr().err
