"""`metronorm show`, as a user types it."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from metronorm.cli import diagnose, show, watch
from metronorm.cli.charts import chart, round_ticks
from metronorm.clock import Clock
from metronorm.errors import ConfigError, RunError

from ..clock.virtual import VirtualTime
from ..store.stores import line, new_run, write_tape
from ..store.tapes import write_training


def record(run: Path, ticks: int = 5, tick_ns: int = 4_160, **options: Any) -> None:
    moment = VirtualTime()
    with Clock(run, progress=False, now=moment, **options) as clock:
        for _ in clock.ticks(range(ticks)):
            moment.pass_(tick_ns)
            clock.log(loss=3e-6 * (ticks + 1 - clock.tick))


def fail(run: Path) -> None:
    with Clock(run, progress=False) as clock:
        for _ in clock.ticks(range(2)):
            clock.log(**{"[bold]\x1b[2Jloss": 1.0})
            with clock.phase("[dim]phase"):
                if clock.tick > 1:
                    raise ValueError("shape [/INST] \x1b]0;title\x07")


def test_text_of_a_run_is_not_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    options = {"target": ".*(q|v)[a-z_]+", "format": "[INST] q [/INST]", "[/b]": ":smile:"}
    record(Path("a"), config=options, name="[/red]a")
    with pytest.raises(ValueError, match="shape"):
        fail(Path("b"))
    (tape,) = Path("b").glob("ticks/*/rank=0")
    (tape / "_live.jsonl").write_bytes(b"half of a line")
    assert show.main(["a", "b"]) == 0
    out = capsys.readouterr().out
    for part in (
        "[/red]a", ".*(q|v)[a-z_]+", "[INST] q [/INST]", "[/b]", ":smile:", "failed: ValueError",
        r"[bold]\x1b[2Jloss", "  [dim]phase", "the last line is torn",
    ):  # fmt: skip
        assert part in out
    assert "\x1b" not in out
    assert show.main(["a", "b", "a", *(f"b/../{name}" for name in "ab")]) == 0
    lines = capsys.readouterr().out
    assert "[/b]" in lines
    assert ":smile:" in lines
    assert diagnose.main(["a", "b"]) == 0
    assert watch.main(["a", "b"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_small_times_and_losses_have_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "run")
    assert show.main([str(tmp_path / "run"), "--no-charts"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"loss +│ +3e-06 \(best 3e-06 at 5\)", out)
    assert re.search(r"tick, median +│ +4.16 µs", out)


def test_several_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def late(tick: int, rank: int, phases: dict[str, float]) -> None:
        phases["forward"] += 50.0 * (rank == 2)

    images = lambda tick, rank: {"images": 10.0}  # noqa: E731
    write_training(tmp_path / "run", 0, ticks=40, ranks=3, plant=late, metrics=images)
    assert show.main([str(tmp_path / "run"), "--no-charts"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"straggler +│ +rank 2, [45]\d(\.\d)? ms after the others", out)
    assert re.search(r"images +│ +1,200 *\n", out)
    assert re.search(r"recording +│ +20 µs a tick, 0.0[\d]+% *\n", out)
    assert re.search(r"images/s +│ +1\d\d *\n", out)


def test_what_a_training_measured_and_why_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"ticks": 9, "best": "accuracy", "best_mode": "max"}
    paths = [str(tmp_path / f"run-{number}") for number in range(4)]
    for path in paths:
        with Clock(path, config=config, progress=False) as clock:
            for tick in clock.ticks(range(3)):
                clock.log(loss=1.0, validation_accuracy=(0.5, 0.75, 0.25)[tick])
            clock.log(test_accuracy=0.3, test_odd=4.0)
            clock.event("stop", reason="no better accuracy")
    assert show.main([paths[0], "--no-charts"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"state +│ +stopped: no better accuracy", out)
    assert re.search(r"ticks +│ +3 of 9\b", out)
    assert re.search(r"validation_accuracy +│ +0.2500 \(best 0.7500 at 2\)", out)
    assert re.search(r"test_accuracy +│ +0.3000 *\n", out)
    assert re.search(r"test_odd +│ +4.0000 *\n", out)
    assert show.main(paths) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "best accuracy" in lines[0]
    assert all("0.7500" in text for text in lines[1:5])


@pytest.fixture
def four_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Created in the order c, a, d, b; of d nothing was measured."""
    monkeypatch.chdir(tmp_path)
    for name, ticks, losses in (
        ("c", 2, (0.5, math.nan)), ("a", 3, (0.9, 0.1, 0.4)), ("d", 5, ()), ("b", 1, (0.3,)),
    ):  # fmt: skip
        with Clock(Path(name), progress=False) as clock:
            for tick in clock.ticks(range(ticks)):
                if tick < len(losses):
                    clock.log(validation_loss=losses[tick], accuracy=losses[tick])
    return ["a", "b", "c", "d"]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert show.main([*arguments, "--json"]) == 0
    return [run["name"] for run in json.loads(capsys.readouterr().out)]


def test_the_last_runs_are_those_that_were_created_last(
    four_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, *four_runs, "--last", "2") == ["b", "d"]
    assert shown(capsys, *four_runs, "a", "--last=9") == four_runs
    assert show.main([*four_runs, "--last", "3"]) == 0, "up to three have a column each"
    assert "directory" in capsys.readouterr().out


def test_what_is_no_run_is_reported_with_the_last_runs_too(
    four_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("e").mkdir()
    Path("damaged").mkdir()
    Path("damaged/run.json").write_text("{")
    assert show.main(["e", "nothing", "damaged", *four_runs, "--last", "2", "--json"]) == 2
    out, err = capsys.readouterr()
    assert [run["name"] for run in json.loads(out)] == ["b"], "the damaged run is newer"
    assert err.count("\n") == 3


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("created", "cadb"), ("-created", "bdac"), ("name", "abcd"), ("-name", "dcba"),
        ("ticks", "bcad"), ("-ticks", "dacb"), ("validation_loss", "abcd"),
        ("-validation_loss", "cbad"), ("accuracy", "acbd"), ("-accuracy", "bcad"),
    ],
)  # fmt: skip
def test_runs_are_sorted(
    key: str, names: str, four_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the best value of a metric: the lowest loss, the highest accuracy; without one, last."""
    assert shown(capsys, *four_runs, f"--sort={key}") == [*names]


def test_a_run_as_json_has_what_the_table_has_and_text_for_what_is_not_finite(
    four_runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main(["c", "d", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["measures"]["validation_loss"] == {"last": "nan", "best": 0.5, "tick": 1}
    assert (first["state"], first["ticks"], second["measures"]) == ("finished", 2, {})
    assert first["created_ns"] < second["created_ns"]
    assert "curves" not in first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sort=validation"], "got validation; try: --sort=validation_loss"),
        (["--sort=zzz"], "one of created, name, seconds, ticks, accuracy, validation_loss"),
        (["--last", "0"], "--last must be at least 1; got 0"),
    ],
)
def test_a_choice_of_runs_that_cannot_be_made_is_refused(
    arguments: list[str], said: str, four_runs: list[str]
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        show.main([*four_runs, *arguments])


@pytest.mark.parametrize("count", [4, 20])
def test_many_runs_have_a_line_each_that_fits_the_terminal(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(count):
        config = {"lr": 10 * number, "deep": {"text": f"{number}" * 99, "same": 1}, "seed": number}
        name = f"run-{number:02}-with-a-name-that-is-much-longer-than-a-line-has-room-{number:02}"
        record(tmp_path / name, config=config)
    assert show.main([str(path) for path in sorted(tmp_path.iterdir())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "ticks", "time", "loss", "tick", "lr", "seed"]
    assert [text.split("-")[1] for text in lines[1 : count + 1]] == [
        f"{n:02}" for n in range(count)
    ]
    for number, text in enumerate(lines[1 : count + 1]):
        assert f"room-{number:02} " in text, "what differs is seen"
        assert text.split()[1:6] == ["finished", "5", "0:00", "3e-06", "4.16"]
    assert lines[count + 1].startswith("1 more option of the config differs")
    assert max(map(cell_len, lines)) <= 80


def test_paths_that_are_no_run_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder").mkdir()
    record(tmp_path / "run")
    paths = sorted(str(path.name) for path in tmp_path.iterdir())
    for command in (show, diagnose, watch):
        assert command.main(paths) == 0
        out, err = capsys.readouterr()
        assert "run" in out
        assert err.splitlines() == [
            "folder is not a run and is left out",
            "notes.txt is not a run and is left out",
        ]
        # but what cannot be meant by runs/* is a failure
        (tmp_path / "damaged").mkdir(exist_ok=True)
        (tmp_path / "damaged" / "run.json").write_bytes(b"{")
        assert command.main([*paths, "nothing", "damaged"]) == 2
        out, err = capsys.readouterr()
        assert "run" in out
        assert (
            "left out: a run is a directory with a run.json; got nothing, which does not exist"
            in err
        )
        assert "left out: damaged/run.json must be a run description" in err
        with pytest.raises(RunError, match="folder, which has none"):
            command.main(["folder", "nothing"])


def test_a_damaged_run_does_not_affect_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("it's damaged", "whole"):
        record(tmp_path / name, 100)
    (part,) = Path("it's damaged").glob("ticks/*/*/part-*.parquet")
    data = bytearray(part.read_bytes())
    data[4:400] = bytes(396)
    part.write_bytes(data)
    assert show.main(["it's damaged", "whole", "--no-charts"]) == 2
    out, err = capsys.readouterr()
    assert "whole" in out
    assert err.startswith("left out: a run's files must be readable; got it's damaged: ")
    assert """metronorm seal 'it'"'"'s damaged'""" in err


@pytest.mark.parametrize("first", [0, -(2**62)])
def test_ticks_far_from_each_other(
    first: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks = [first, 5 * 10**16, 2**62, 2**63 - 1]
    write_tape(
        new_run(tmp_path / "run"),
        [line(t, {"loss": 1.0}, time_ns=at) for at, t in enumerate(ticks)],
    )
    for command in (show, diagnose, watch):
        assert command.main([str(tmp_path / "run")]) == 0
    assert "┤" in capsys.readouterr().out


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64), st.integers(10, 200))
def test_ticks_below_a_chart_are_round_and_whole(first: int, span: int, width: int) -> None:
    shown = round_ticks(first, first + span, width)
    assert 1 <= len(shown) <= width // 4 + 1
    assert all(first <= mark <= first + span for mark in shown)
    steps = {later - earlier for earlier, later in pairwise(shown)}
    assert all(re.fullmatch(r"[125]0*", str(step)) for step in steps)
    assert len(steps) <= 1


def test_names_of_lines_hide_no_curve_and_those_without_room_are_counted() -> None:
    falling = [(tick, 1 / tick) for tick in range(1, 51)]
    two = chart("loss", {"train": falling, "validation": falling}, 60, 13).plain.splitlines()
    assert len(two) == 13
    assert two[-1] == "▚ train   ▚ validation"
    alone = chart("loss", {"train": falling}, 60, 12).plain.splitlines()
    assert two[:-1] == alone  # the same curve twice, and nothing before it
    many = chart("loss", {f"run {number:02}": falling for number in range(30)}, 60, 13)
    rows = many.plain.splitlines()
    assert len(rows) == 13
    assert rows[-1] == f"and {30 - many.plain.count('▚ run')} more"
    odd = {f"▚ ▚ {number}": falling for number in range(30)}  # a name that looks like several
    more = chart("loss", odd, 60, 13).plain.splitlines()[-1]
    shown = sum(row.count("▚ ▚ ▚") for row in chart("loss", odd, 60, 13).plain.splitlines())
    assert more == f"and {30 - shown} more"
    assert len(chart("loss", odd, 60, 2).plain.splitlines()) <= 2  # no room for any name
