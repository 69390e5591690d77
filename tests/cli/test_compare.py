import json
import re
from pathlib import Path

import pytest

from metronorm.cli.compare import main
from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError

from ..clock.noisy import record, walls


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`usual` and `again`, which differ only by noise, and `slow`, which is 10% slower."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name, slower in ((0, "usual", 0.0), (4, "again", 0.0), (2, "slow", 0.1)):
        record(
            folder / name,
            walls(seed, slower=slower),
            metrics=lambda tick: {"loss": 5.0 - tick / 100, "tokens": 512},
            phases=lambda tick, time: {"forward": time // 3},
        )
    return folder


def run(folder: Path, *arguments: str) -> int:
    return main([str(folder / name) for name in arguments[:2]] + list(arguments[2:]))


def test_the_table_and_the_sentences(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(runs, "usual", "slow") == 0
    out = capsys.readouterr().out
    assert re.search(r"A: usual .* B: slow .* B / A .* 95% interval", out)
    assert re.search(
        r"tick, median +│ +\d\d(\.\d)? ms │ +5\d(\.\d)? ms │ 1\.\d{3} │ 1\.\d{3} to", out
    )
    for part in ("tick, mean", "  forward", "tokens/s", "peak memory", "loss after 300 ticks"):
        assert part in out
    assert "loss after 153,600 tokens" in out
    assert re.search(r"^B is [\d.]+% slower \([\d.]+% to [\d.]+%\); a median tick", out, re.M)


def test_fail_if_slower(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for limit in ("5%", "0.05"):
        assert run(runs, "usual", "slow", "--fail-if-slower", limit) == 1
        assert "too slow: B is" in capsys.readouterr().out
    assert run(runs, "usual", "slow", "--fail-if-slower", "30%") == 0
    assert "not too slow: B is" in capsys.readouterr().out
    assert run(runs, "slow", "usual", "--fail-if-slower", "0%") == 0
    assert run(runs, "usual", "again", "--fail-if-slower", "0%") == 0, "only noise"
    assert run(runs, "again", "usual", "--fail-if-slower", "0%") == 0, "only noise"
    assert run(runs, "usual", "usual", "--fail-if-slower", "0%") == 0
    assert "within the limit of 0%" in capsys.readouterr().out
    assert run(runs, "usual", "slow", "--fail-if-slower", "9.6%") == 0
    assert "perhaps too slow" in capsys.readouterr().out


def test_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--json", "--fail-if-slower", "5%", "--skip", "7", "--metric", "tokens"]
    assert run(runs, "usual", "slow", *arguments) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["measures"]["tick_median_ns"]["low"] > 1.05
    assert found["phases"]["forward"]["a"] > 0
    assert found["verdict"]["failed"] is True
    assert found["b"]["directory"] == str(runs / "slow")
    assert (found["skip"], found["metric"]) == (7, "tokens")
    assert found["losses"][-1]["a"] == 512


def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("[red]a", "b\x1b[31m"):
        record(tmp_path / name, walls(1))
    assert run(tmp_path, "[red]a", "b\x1b[31m") == 0
    out = capsys.readouterr().out
    assert "A: [red]a" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["usual", "slow", "--fail-if-slower", "much"], "must be a percentage"),
        (["usual", "slow", "--fail-if-slower", "5"], "try: 5%"),
        (["usual", "slow", "--metric", "perplexity"], "'perplexity'.* try: one of loss, tokens"),
        (["usual", "slow", "--skip", "260"], "at least 50 ticks .* got 40 in .*usual"),
        (["usual", "slow", "--skip", "290"], "try: longer runs, or a smaller skip"),
        (["usual", "slow", "--skip", "-2"], "skip must be a number of ticks; got -2"),
        (["usual", "none"], "none, which does not exist"),
    ],
)
def test_mistakes_are_one_line(runs: Path, arguments: list[str], says: str) -> None:
    with pytest.raises((ConfigError, RunError), match=says) as error:
        run(runs, *arguments)
    assert "\n" not in str(error.value)


def test_no_smaller_skip_than_0_is_advised(tmp_path: Path) -> None:
    for name in "ab":
        with Clock(tmp_path / name, progress=False) as clock:
            for _ in clock.ticks(range(3)):
                clock.log(loss=1.0)
    with pytest.raises(ConfigError, match=r"50 ticks of each run; got 3 in .*try: longer runs$"):
        main([str(tmp_path / "a"), str(tmp_path / "b")])


def test_one_run_is_too_few(runs: Path) -> None:
    with pytest.raises(ConfigError, match="metronorm compare --help") as error:
        main([str(runs / "usual")])
    assert "\n" not in str(error.value)
