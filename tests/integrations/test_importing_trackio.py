import importlib.util
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.errors import DataError
from metronorm.integrations.importing import import_run, import_trackio
from metronorm.runs import open_run
from tests.integrations.rows import events, ticks

pytestmark = pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="needs trackio")

QUIET = "auto_log_gpu=False, auto_log_cpu=False"


def trackio(folder: Path, script: str) -> None:
    """Run a script with trackio's files in `folder`."""
    environment = {**os.environ, "TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"import trackio\n{script}"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, as trackio itself logs them."""
    made = tmp_path_factory.mktemp("trackio")
    trackio(
        made,
        f"""
trackio.init(project="language", name="first", config={{"lr": 0.1, "n": {{"a": [1]}}}}, {QUIET})
for step in range(4):
    trackio.log({{"loss": float("nan") if step == 2 else 1 / (step + 1), "train/x": step,
                  "inf": float("-inf"), "nested": {{"y": 2}}, "tick": 7, "said": "hello",
                  "weights": trackio.Histogram([1, 2, 2])}})
trackio.alert(title="careful", text="the loss is high", level=trackio.AlertLevel.WARN)
trackio.log_system({{"gpu/0/utilization": 50, "memory/available": 2.0, "battery/percent": 9}})
trackio.finish()
trackio.init(project="language", name="second run", {QUIET})
trackio.log({{"loss": 1.0}}, step=0)
trackio.log({{"loss": 2.0, "ok": True, "none": None}}, step=5)
trackio.log({{"loss": 3.0}}, step=5)
trackio.finish()
""",
    )
    return made


def test_runs_of_a_project(folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    made = import_trackio(folder / "language.db", tmp_path / "runs")
    assert made == [tmp_path / "runs" / "first", tmp_path / "runs" / "second-run"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    first = open_run(made[0])
    assert first.info.name == "first"
    assert first.info.config["lr"] == 0.1
    assert first.info.config["n"] == {"a": [1]}
    assert first.info.config["imported"]["format"] == "trackio"
    assert set(first.info.config) == {"lr", "n", "imported"}
    found = ticks(made[0], "tick", "loss", "train/x", "inf", "nested.y", "tick_")
    assert [row[:1] + row[2:] for row in found] == [
        (step, float(step), float("-inf"), 2.0, 7.0) for step in range(4)
    ]
    assert [str(row[1]) for row in found] == ["1.0", "0.5", "nan", "0.25"]
    second = ticks(made[1], "tick", "loss", "ok")
    assert second == [(0, 1.0, None), (5, 3.0, 1.0)]


def test_times_are_those_of_trackio(folder: Path, tmp_path: Path) -> None:
    (run,) = import_trackio(folder / "language.db", tmp_path / "run", run="second run")
    connection = sqlite3.connect(f"file:{folder / 'language.db'}?mode=ro", uri=True)
    expected = connection.execute(
        "select cast(round((julianday(min(timestamp)) - 2440587.5) * 86400) as integer)"
        " from metrics where run_name = 'second run' group by step"
    ).fetchall()
    connection.close()
    found = ticks(run, "time_ns")
    assert [round(time_ns / 1e9) for (time_ns,) in found] == pytest.approx(
        [seconds for (seconds,) in expected], abs=1
    )


def test_configs_samples_alerts_and_texts(folder: Path, tmp_path: Path) -> None:
    (run,) = import_trackio(folder, tmp_path / "run", run="first")
    assert run == tmp_path / "run"
    (alert,) = events(run, "alert")
    assert (alert["title"], alert["level"]) == ("careful", "warn")
    weights = events(run, "histogram")
    assert [event["at"] for event in weights] == [0, 1, 2, 3]
    assert sum(weights[0]["counts"]) == 3
    (sample,) = open_run(run).resources().rows()
    assert sample["gpu0_utilization"] == 0.5
    assert sample["machine_memory_available_bytes"] == 2 * 2**30
    (rest,) = events(run, "system")
    assert rest["battery/percent"] == 9
    texts = events(run, "text")
    assert [(event["at"], event["tag"], event["text"]) for event in texts] == [
        (step, "said", "hello") for step in range(4)
    ]
    assert events(run, "notice") == []


def test_steps_that_are_logged_again_are_a_new_attempt(tmp_path: Path) -> None:
    trackio(
        tmp_path / "trackio",
        f"""
trackio.init(project="p", name="r", {QUIET})
for step in (0, 1, 2, 3, 2, 3, 4):
    trackio.log({{"loss": step}}, step=step)
trackio.finish()
""",
    )
    (run,) = import_trackio(tmp_path / "trackio", tmp_path / "run")
    assert ticks(run, "attempt", "tick") == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4)]
    assert len(ticks(run, "tick", history="full")) == 7


def test_several_projects(tmp_path: Path) -> None:
    for project in ("p", "q"):
        trackio(
            tmp_path / "trackio",
            f"trackio.init(project={project!r}, name='r', {QUIET}); trackio.log({{'a': 1}})\n"
            "trackio.finish()",
        )
    made = import_run(tmp_path / "trackio", tmp_path / "runs")
    assert made == [tmp_path / "runs" / project / "r" for project in ("p", "q")]


def test_its_parquet_form(folder: Path, tmp_path: Path) -> None:
    trackio(
        folder,
        "from pathlib import Path\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        f"SQLiteStorage.export_for_static_space('language', Path({str(tmp_path / 'space')!r}))",
    )
    made = import_trackio(tmp_path / "space" / "metrics.parquet", tmp_path / "runs")
    wanted = import_trackio(folder / "language.db", tmp_path / "wanted")
    columns = ("tick", "time_ns", "train/x", "inf", "tick_")
    assert ticks(made[0], *columns) == ticks(wanted[0], *columns)
    assert open_run(made[0]).info.config["lr"] == 0.1
    assert events(made[0], "system") == events(wanted[0], "system")


def test_a_database_without_run_ids(tmp_path: Path) -> None:
    """As trackio made them before 0.24."""
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute(
            "create table metrics (id integer primary key, timestamp text, run_name text, "
            "step integer, metrics text)"
        )
        rows = [("2025-01-01T00:00:00", name, 0, '{"loss": 1.5}') for name in ("a", "b")]
        connection.executemany(
            "insert into metrics (timestamp, run_name, step, metrics) values (?, ?, ?, ?)", rows
        )
    connection.close()
    made = import_trackio(tmp_path / "old.db", tmp_path / "runs")
    assert [path.name for path in made] == ["a", "b"]
    assert ticks(made[0], "time_ns", "loss") == [(1_735_689_600_000_000_000, 1.5)]


def database(path: Path, rows: list[tuple[str, object, str]]) -> Path:
    """Time, step and JSON of each row of a run `a`; a second table has configs of two runs."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "create table metrics (id integer primary key, timestamp text, run_name text, "
            "step, metrics text)"
        )
        connection.execute(
            "create table configs (id integer primary key, run_name text, config text)"
        )
        connection.executemany(
            "insert into metrics (timestamp, run_name, step, metrics) values (?, 'a', ?, ?)", rows
        )
        connection.execute("insert into configs (run_name, config) values ('a', '[1]')")
    connection.close()
    return path


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    rows: list[tuple[str, object, str]] = [
        ("2025-01-01T00:00:00", 0, '{"loss": 1.5}'),
        ("yesterday", 1, '{"loss": 2.5}'),
        ("2025-01-01T00:00:02", "x", '{"loss": 1}'),
        ("2025-01-01T00:00:02", 2, "[1]"),
        ("2025-01-01T00:00:02", 3, '{"loss"'),
        ("2025-01-01T00:00:02", 3, "[" * 100_000),
        ("2025-01-01T00:00:02", None, '{"loss": 1}'),
    ]
    import_trackio(database(tmp_path / "p.db", rows), tmp_path / "run")
    begin = 1_735_689_600_000_000_000
    assert ticks(tmp_path / "run", "tick", "time_ns", "loss") == [(0, begin, 1.5), (1, begin, 2.5)]
    messages = [notice["message"] for notice in events(tmp_path / "run", "notice")]
    assert "1, such as 'yesterday'" in messages[0]
    assert messages[1:] == [
        "rows of metrics left out that cannot be read: 5",
        "rows of configs left out that cannot be read: 1",
    ]


def test_a_project_that_cannot_be_read_is_left_out_and_noticed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    database(tmp_path / "in" / "good.db", [("2025-01-01", 0, '{"loss": 1.5}')])
    database(tmp_path / "in" / "words.db", [("2025-01-01", 0, '{"loss": [1]}')])
    (tmp_path / "in" / "bad.db").write_bytes(b"no database at all" * 100)
    import_trackio(tmp_path / "in", tmp_path / "run")
    assert ticks(tmp_path / "run", "loss") == [(1.5,)]
    messages = " ".join(notice["message"] for notice in events(tmp_path / "run", "notice"))
    assert "bad.db was left out" in messages
    assert "runs of words.db left out that hold no number: 1" in messages


def test_a_path_with_signs_of_patterns(folder: Path, tmp_path: Path) -> None:
    space = tmp_path / "lr=[0]"
    trackio(
        folder,
        "from pathlib import Path\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        f"SQLiteStorage.export_for_static_space('language', Path({str(space)!r}))",
    )
    made = import_trackio(space / "metrics.parquet", tmp_path / "runs[1]")
    assert [path.name for path in made] == ["first", "second-run"]


def test_nothing_to_import(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.db").write_text("no database, but long enough to be taken for one" * 100)
    sqlite3.connect(tmp_path / "other.db").execute("create table t (a)").connection.close()
    for source, expected in {
        tmp_path / "missing.db": "no .*missing",
        tmp_path / "empty": "none in",
        tmp_path / "text.db": "not a database",
        tmp_path / "other.db": "no such table: metrics",
    }.items():
        with pytest.raises(DataError, match=expected):
            import_trackio(source, tmp_path / "run")
    with pytest.raises(DataError, match="no 'third'"):
        import_trackio(folder, tmp_path / "run", run="third")
    assert not (tmp_path / "run").exists()


def test_a_damaged_database(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "language.db").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (tmp_path / "one.db").write_bytes(data)
    with pytest.raises(DataError, match="malformed"):
        import_trackio(tmp_path / "one.db", tmp_path / "run")
