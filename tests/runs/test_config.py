"""The config of the newest attempt."""

from pathlib import Path
from typing import Any

import pytest

from metronorm.clock import Clock
from metronorm.runs import Follower, open_run, summarize

CONFIG: dict[str, Any] = {"ticks": 4, "optimizer": {"rate": 0.1, "name": "adamw"}}


def attempt(run: Path, **options: Any) -> None:
    with Clock(run, progress=False, stall=None, **options) as clock:
        for _ in clock.ticks(range(1)):
            pass


def config(run: Path) -> dict[str, Any]:
    """As `show` has it; `watch` plans the same number of ticks."""
    found = summarize(open_run(run))
    assert Follower(run).read().total == found.planned == found.config.get("ticks")
    return found.config


def test_a_training_writes_its_config_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempt(run, config=CONFIG)
    assert config(run) == CONFIG
    follower = Follower(run)
    assert follower.read().total == 4
    new = "ticks = 6\nthreads = 2\n[optimizer]\nrate = 0.2\n[mine]\nticks = 3\n"
    (run / "config.toml").write_text(new)
    assert config(run) == {"ticks": 6, "optimizer": {"rate": 0.2, "name": "adamw"}}
    assert follower.read().total == 6


@pytest.mark.parametrize("data", [b"ticks = ", b"\xff", b"[" * 5000, None])
def test_a_file_that_cannot_be_read(tmp_path: Path, data: bytes | None) -> None:
    run = tmp_path / "run"
    attempt(run, config=CONFIG)
    if data is None:
        (run / "config.toml").mkdir()
    else:
        (run / "config.toml").write_bytes(data)
    assert config(run) == CONFIG


def test_a_clock_that_was_given_another_config(tmp_path: Path) -> None:
    run = tmp_path / "run"
    attempt(run, config=CONFIG)
    attempt(run, resume=True, config={"ticks": 8, "optimizer": {"rate": 0.2}, "deep": {"a": 1}})
    changed = {"ticks": 8, "optimizer": {"rate": 0.2, "name": "adamw"}, "deep": {"a": 1}}
    assert config(run) == changed
    follower = Follower(run)
    follower.read()
    with Clock(run, progress=False, stall=None, resume=True, config={"ticks": 9}) as clock:
        clock.flush()
        assert follower.read().total == 9, "that of the newest attempt"
    attempt(run, resume=True)
    assert config(run) == CONFIG, "as the first"
    with Clock(run, progress=False, stall=None, resume=True) as clock:
        clock.event("changed", config=3)
        clock.event("changed", config={"ticks": "many"})
    assert config(run) == CONFIG, "events of a script"


@pytest.mark.parametrize("ticks", [True, 3.5, "many", None])
def test_a_plan_that_is_no_number(tmp_path: Path, ticks: object) -> None:
    attempt(tmp_path / "run", config={"ticks": ticks})
    assert summarize(open_run(tmp_path / "run")).planned is None
