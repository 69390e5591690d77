"""The list of runs: every run is in it, damaged ones too, and none costs much."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from metronorm.board import finding
from metronorm.board.finding import find_runs
from metronorm.board.listing import COLORS, Listing, UnknownRunError
from metronorm.board.notes import change_notes
from metronorm.clock import Clock
from metronorm.runs import open_run
from metronorm.runs.state import run_state

from .boards import record


class Listed:
    """A listing whose time a test moves."""

    def __init__(self, *roots: Path) -> None:
        self.seconds = 1e9
        self.listing = Listing(roots, now=lambda: int(self.seconds * 1e9))

    def runs(self, seconds: float = 60) -> dict[str, dict[str, Any]]:
        """What is listed of the runs, by folder, after some seconds."""
        self.seconds += seconds
        self.listing.look()
        self.listing.wait_until_known(30)
        return {entry.folder: entry.listed(2 * 10**18) for entry in self.listing.entries()}


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[Listed]:
    found = Listed(tmp_path)
    yield found
    found.listing.close()


def change(directory: Path, **values: Any) -> None:
    """Change `run.json`."""
    file = directory / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def fail(directory: Path) -> None:
    with Clock(directory, progress=False) as clock:
        for _ in clock.ticks([1, 2]):
            raise ValueError("bad \x1b[31m")


def test_a_finished_run(tmp_path: Path, listed: Listed) -> None:
    record(tmp_path / "a" / "one", [3.0, 2.0], ticks=5)
    run = listed.runs()["a/one"]
    info = open_run(tmp_path / "a" / "one").info
    assert run["id"] == info.id
    assert (run["name"], run["state"], run["tick"], run["total"]) == ("one", "finished", 2, 5)
    assert run["begun_ns"] == info.created_ns
    newest = open_run(tmp_path / "a" / "one").ticks().fetch("select max(time_ns) from ticks")[0][0]
    assert run["age_ns"] == 2 * 10**18 - newest
    assert not run["stalled"]
    assert run["damaged"] is None
    assert run["not_finite"] == {}


def test_runs_appear_grow_end_and_go(tmp_path: Path, listed: Listed) -> None:
    assert listed.runs() == {}
    with Clock(tmp_path / "new", progress=False, config={"ticks": 3}) as clock:
        for tick in clock.ticks([1, 2, 3]):
            clock.log(loss=float("nan") if tick == 2 else 1.0)
            run = listed.runs()["new"]
            assert (run["state"], run["total"]) == ("running", 3)
    run = listed.runs()["new"]
    assert (run["state"], run["tick"], run["not_finite"]) == ("finished", 3, {"loss": "nan"})
    version = listed.listing.version
    assert listed.runs()["new"] == run
    assert listed.listing.changed_since(version) == ([], [])
    shutil.rmtree(tmp_path / "new")
    assert listed.runs() == {}
    assert listed.listing.changed_since(version) == ([], [run["id"]])


def test_states_are_those_of_show(tmp_path: Path, listed: Listed) -> None:
    record(tmp_path / "finished", [1.0])
    with Clock(tmp_path / "stopped", progress=False) as clock:
        clock.event("stop", reason="early")
        list(clock.ticks([1]))
    with pytest.raises(ValueError, match="bad"):
        fail(tmp_path / "failed")
    shutil.copytree(tmp_path / "finished", tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "ticks")
    shutil.rmtree(tmp_path / "empty" / "events")
    states = {name: run["state"] for name, run in listed.runs().items()}
    for name, state in states.items():
        run = open_run(tmp_path / name)
        assert state == run_state(run, run.events()).replace("\x1b", "\\x1b")
    assert states["finished"] == "finished"
    assert states["stopped"] == "stopped: early"
    assert states["failed"].startswith("failed: ValueError")
    assert states["empty"] == "not begun"


def test_a_new_attempt_is_seen(tmp_path: Path, listed: Listed) -> None:
    record(tmp_path / "run", [1.0, 2.0, 3.0])
    assert listed.runs()["run"]["tick"] == 3
    with Clock(tmp_path / "run", progress=False, resume=True) as clock:
        for _ in clock.ticks([1], initial=1):
            pass
        run = listed.runs()["run"]
        assert run["state"] == "running"
    run = listed.runs()["run"]
    assert (run["state"], run["tick"]) == ("finished", 2)


def test_damaged_runs_are_listed_with_the_reason(tmp_path: Path, listed: Listed) -> None:
    for name in ("good", "cut", "future", "list", "part", "huge"):
        record(tmp_path / name, [1.0, 2.0])
    (tmp_path / "cut" / "run.json").write_text('{"schema": 1, "id": ')
    change(tmp_path / "future", schema=99)
    (tmp_path / "list" / "run.json").write_text("[]")
    os.truncate(tmp_path / "huge" / "run.json", 3 << 30)
    for part in (tmp_path / "part").rglob("*.parquet"):
        part.write_bytes(b"PAR1 damaged PAR1")
    (tmp_path / "none").mkdir()
    (tmp_path / "file").write_text("x")
    runs = listed.runs()
    assert set(runs) == {"good", "cut", "future", "list", "part", "huge"}
    assert runs["good"]["state"] == "finished"
    assert runs["cut"]["state"] == runs["list"]["state"] == "damaged"
    assert "must be a run description" in runs["cut"]["damaged"]
    assert "upgrade metronorm" in runs["future"]["damaged"]
    assert "got 3 GiB" in runs["huge"]["damaged"]
    assert runs["part"]["damaged"] is None  # its page says what is left out
    assert runs["part"]["tick"] == 0
    change(tmp_path / "future", schema=1)
    assert listed.runs()["future"]["state"] == "finished"


def test_records_of_another_form_are_a_problem_of_their_run_alone(
    tmp_path: Path, listed: Listed
) -> None:
    """A list without a state, for all runs and for good, would be what one bad run makes."""
    forms = {"text": "'{' as fields", "number": "5 as fields", "time": "'now' as time_ns"}
    for name in ("good", "linked", *forms):
        record(tmp_path / name, [1.0, 2.0])
    for name, columns in forms.items():
        (part,) = (tmp_path / name / "events").rglob("*.parquet")
        table = f"read_parquet('{part}', hive_partitioning = false)"
        query = f"select * replace ({columns}) from {table}"
        duckdb.sql(f"copy ({query}) to '{part}.new' (format parquet)")
        Path(f"{part}.new").replace(part)
    shutil.copytree(tmp_path / "good", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    (tmp_path / ".hidden").mkdir()
    shutil.move(tmp_path / "linked" / "events", tmp_path / ".hidden" / "events")
    (tmp_path / "linked" / "events").symlink_to(tmp_path / ".hidden" / "events")
    runs = listed.runs()
    assert runs["good"]["state"] == "finished"
    assert runs["linked"]["state"] is not None
    for name in ("text", "number"):
        assert "the records of a run must have their form" in runs[name]["damaged"]
    assert "must be UTF-8" in runs["\udcff"]["damaged"]
    record(tmp_path / "late", [1.0])
    assert listed.runs()["late"]["state"] == "finished"


def test_ids_are_fit_for_an_address_and_differ(tmp_path: Path, listed: Listed) -> None:
    record(tmp_path / "a", [1.0])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    foreign = ["../../etc", "<script>", "", "a/b", "x" * 65, "\u202e", "a\0b"]
    for number, name in enumerate(foreign):
        shutil.copytree(tmp_path / "a", tmp_path / f"c{number}")
        change(tmp_path / f"c{number}", id=name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "run.json").write_text("")
    runs = listed.runs()
    ids = [run["id"] for run in runs.values()]
    assert len(set(ids)) == len(ids) == 3 + len(foreign)
    assert runs["b"]["id"].startswith(f"{runs['a']['id']}-")
    for run in ids:
        assert run.replace("-", "").replace("_", "").isalnum()
        assert run.isascii()
        assert listed.listing.entry(run).id == run
    before = {folder: run["id"] for folder, run in runs.items()}
    assert {folder: run["id"] for folder, run in listed.runs().items()} == before
    for wrong in ("../a", "", "a"):
        with pytest.raises(UnknownRunError):
            listed.listing.entry(wrong)


def test_names_with_signs_that_a_terminal_obeys_are_shown_as_text(
    tmp_path: Path, listed: Listed
) -> None:
    record(tmp_path / "one", [1.0])
    change(tmp_path / "one", name="<img src=x>\x1b[2J\u202e")
    assert listed.runs()["one"]["name"] == "<img src=x>\\x1b[2J\\u202e"


def test_colors_differ_as_long_as_there_are_any_and_stay(tmp_path: Path, listed: Listed) -> None:
    record(tmp_path / "000", [1.0])
    for number in range(1, 3 * COLORS):
        copy = tmp_path / f"{number:03}"
        shutil.copytree(tmp_path / "000", copy)
        change(copy, id=f"{number:032x}", created_ns=number)
    colors = {folder: run["color"] for folder, run in listed.runs().items()}
    assert sorted(colors.values()) == list(range(3 * COLORS))
    shutil.copytree(tmp_path / "000", tmp_path / "999")
    change(tmp_path / "999", id="f" * 32, created_ns=2**62)
    again = {folder: run["color"] for folder, run in listed.runs().items()}
    assert again.pop("999") // COLORS == 3
    assert again == colors
    change_notes(tmp_path / "000", {"color": "#123456"})
    assert listed.runs()["000"]["color"] == "#123456"


def test_notes_are_listed_and_a_change_is_news(tmp_path: Path, listed: Listed) -> None:
    record(tmp_path / "one", [1.0])
    listed.runs()
    version = listed.listing.version
    change_notes(tmp_path / "one", {"tags": ["a"], "note": "mine", "starred": True})
    run = listed.runs()["one"]
    assert (run["tags"], run["note"], run["starred"], run["hidden"]) == (
        ("a",),
        "mine",
        True,
        False,
    )
    assert [entry.folder for entry in listed.listing.changed_since(version)[0]] == ["one"]


def test_a_large_config_is_not_kept(tmp_path: Path, listed: Listed) -> None:
    record(tmp_path / "large", [1.0], text="x" * (10 << 20), small=3, ticks=7)
    run = listed.runs()["large"]
    entry = listed.listing.entry(run["id"])
    assert run["total"] == 7
    assert entry.info is not None
    assert entry.info.config == {"ticks": 7}
    assert entry.config()["small"] == 3


def test_runs_are_found_below_folders_and_not_twice(tmp_path: Path) -> None:
    for name in ("runs/a", "runs/sweep/b", "runs/a/checkpoints/c", ".hidden/d", "other/e"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "nowhere").symlink_to(tmp_path / "none")
    found = find_runs([tmp_path / "runs", tmp_path / "runs" / "a", tmp_path / "missing"])
    assert [str(path.relative_to(tmp_path)) for path in found.runs] == [
        "runs/a", "runs/link/e", "runs/sweep/b"
    ]  # fmt: skip
    assert found.notices == []
    assert found.is_same()
    (tmp_path / "runs" / "sweep" / "new").mkdir()
    assert not found.is_same()


def test_a_folder_that_appears_later_is_a_change(tmp_path: Path) -> None:
    found = find_runs([tmp_path / "later"])
    assert found.is_same()
    record(tmp_path / "later" / "run", [1.0])
    assert not found.is_same()


def test_what_is_not_looked_into_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "/".join("abcdefgh")).mkdir(parents=True)
    (notice,) = find_runs([tmp_path]).notices
    assert notice == f"{tmp_path}/a/b/c/d/e/f was left out: more than 6 folders deep"
    monkeypatch.setattr(finding, "MOST_FOLDERS", 3)
    for number in range(5):
        (tmp_path / f"x{number}").mkdir()
    (notice,) = find_runs([tmp_path]).notices
    assert notice.endswith("was left out: there are more than 3 folders")
