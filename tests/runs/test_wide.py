"""Runs with thousands of metrics take memory and time in proportion, sealed and not."""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from metronorm.errors import ConfigError, OutOfMemoryError
from metronorm.runs import open_run
from metronorm.runs.table import MOST_GROUPS
from metronorm.store import parquet_parts as parts
from metronorm.store.sealing import seal_run

from ..store.stores import line, new_run, write_tape

METRICS = 3000
# code with memory in proportion to the square of the metrics took 10 GB for these
LIMIT_BYTES = 3 << 30
READ = f"""
import resource, sys
from dataclasses import asdict
import msgspec
resource.setrlimit(resource.RLIMIT_AS, ({LIMIT_BYTES}, {LIMIT_BYTES}))
from metronorm.runs import open_run
from metronorm.runs.diagnosing import diagnose
from metronorm.runs.following import Follower
from metronorm.store.sealing import seal_run
from metronorm.runs.summary import summarize

for sealed in (False, True):
    run = open_run(sys.argv[1])
    summary, snapshot = summarize(run), Follower(sys.argv[1]).read()
    print(msgspec.json.encode({{
        "ticks": summary.ticks,
        "measures": summary.measures,
        "notices": summary.notices,
        "findings": diagnose(run),
        "latest": snapshot.latest,
        "columns": run.ticks().columns,
    }}).decode())
    seal_run(run.directory)
"""


@pytest.mark.slow
def test_thousands_of_metrics_are_read_in_bounded_memory(tmp_path: Path) -> None:
    names = [f"layer{number}/norm" for number in range(METRICS)]

    def metrics(tick: int) -> dict[str, float | str]:
        found: dict[str, float | str] = {name: tick + at for at, name in enumerate(names)}
        found["loss"] = 10 / tick
        if tick == 60:
            found |= dict.fromkeys(names[50:], "nan") | {names[7]: "inf"}
        return found

    run = new_run(tmp_path / "run")
    ticks = [line(tick, metrics(tick)) for tick in range(1, 61)]
    write_tape(run, ticks[:40], ticks[40:])
    done = subprocess.run(
        [sys.executable, "-c", READ, str(run)], capture_output=True, text=True, check=True
    )
    unsealed, sealed = map(json.loads, done.stdout.splitlines())
    assert sealed == unsealed
    assert sealed["ticks"] == 60
    assert sealed["measures"]["loss"] == {"last": 10 / 60, "best": 10 / 60, "tick": 60}
    assert sealed["notices"] == []
    assert sealed["columns"][-2:] == [names[-1], "loss"]
    assert sealed["latest"][names[3]] == 63
    bad = [finding for finding in sealed["findings"] if finding["rule"] == "not-finite"]
    assert [finding["ticks"] for finding in bad] == [[60]] * 11
    assert bad[0]["what"].startswith(f"{names[7]} was first infinite at tick 60")
    assert bad[-1]["evidence"]["metrics"] == METRICS - 50 + 1 - 10
    assert "2,941 more metrics were not finite, 2,941 of them until the end" in bad[-1]["what"]


def test_some_columns_are_the_same_rows(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(2, {"a": 1.0, "b": 2.0}), line(1, {"b": 3.0})], [line(3, {"c": 1.0})])
    for _ in range(2):
        table = open_run(run).ticks()
        some = table.only("b", "tick")
        assert some.columns == ["b", "tick"]
        assert some.metrics == ["b"]
        assert some.rows() == [{"b": row["b"], "tick": row["tick"]} for row in table.rows()]
        assert some.only("b").relation.fetchall() == [(3.0,), (2.0,), (None,)]
        assert some.sql("select sum(b) from ticks").fetchall() == [(5.0,)]
        with pytest.raises(ConfigError, match="got 'a', 'lost'"):
            some.only("a", "lost")
        seal_run(run)


def test_parts_of_many_kinds_are_read_together(tmp_path: Path) -> None:
    """With an evaluation now and then, nearly every part has other columns."""
    run = new_run(tmp_path / "run")
    count = MOST_GROUPS + 3
    write_tape(run, *([line(tick, {f"m{tick}": tick, "loss": 0.5})] for tick in range(count)))
    seal_run(run)
    write_tape(run, [line(count, {"loss": 0.5, "M1": 7})], attempt=1, rank=2)
    table = open_run(run).ticks("full")
    assert len(table.metrics) == count + 1
    values = [{name: row[name] for name in table.metrics} for row in table.rows()]
    for tick, row in enumerate(values[:-1]):
        assert {name: value for name, value in row.items() if value is not None} == {
            f"m{tick}": tick,
            "loss": 0.5,
        }
    assert (values[-1]["m1"], table.rows()[-1]["rank"]) == (7, 2)
    assert table.only("loss").sql("select sum(loss) from ticks").fetchall() == [(27.0,)]


def test_a_key_that_comes_once_costs_the_other_lines_nothing(tmp_path: Path) -> None:
    """Arrays begin with the frequent names, in whatever order the names came."""
    run = new_run(tmp_path / "run")
    many = {f"once{number}": float(number) for number in range(2000)}
    write_tape(run, [line(1, {**many, "loss": 1.0}), *(line(t, {"loss": t}) for t in range(2, 99))])
    table = open_run(run).ticks()
    assert table.metrics == [*many, "loss"], "in the order in which they came up"
    assert table.only("loss").relation.fetchall() == [(float(tick),) for tick in range(1, 99)]
    assert table.only("once1999").relation.fetchall()[:2] == [(1999.0,), (None,)]


def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path / "run")
    write_tape(run, [line(tick, {f"m{at}": at for at in range(500)}) for tick in range(1, 99)])
    seal_run(run)
    (part,) = run.glob("ticks/*/*/*.parquet")
    little = {"memory_limit": "1MB", "threads": 1, "temp_directory": ""}
    monkeypatch.setattr(parts, "connect", lambda **_: duckdb.connect(config=little))
    with pytest.raises(OutOfMemoryError, match="more memory than there is; got"):
        parts.is_readable(part)
