"""What the board answers about runs, beside what `metronorm.runs` reads of the same files."""

import json
import math
import re
import shutil
from pathlib import Path

import duckdb
import psutil
import pytest

from metronorm.board import routes, state
from metronorm.board.series import Chart, RunSeries
from metronorm.clock import Clock
from metronorm.runs import compare, diagnose, open_run
from metronorm.store.sealing import seal_run

from .boards import Served, record, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("runs")
    record(top / "good", [5.0, 1.0, 2.0], ticks=3, optimizer={"name": "ticks", "lr": 0.1})
    record(top / "bad", [3.0, math.nan, math.inf, 4.0], ticks=9, optimizer={"name": "adam"})
    record(top / "only nan", [math.nan])
    with Clock(top / "odd", progress=False, config={"best": "score", "best_mode": "max"}) as clock:
        for _ in clock.ticks([1, 2]):
            clock.log(
                **{"score": clock.tick, "a,b": 1, "<b>": 2, "x\x1b[2J": 3, "q\"uote's": 4},
                **{"é/ü": 5, "filename": 6},
            )
        clock.log(late=7.0)
        clock.event("custom", value="<script>alert(1)</script>", large="x" * 10_000)
        clock.sample("text", "<script>alert(1)</script>")
        clock.sample("table", [{"a": 1}])
    record(top / "long a", [1 / tick for tick in range(1, 101)], lr=1)
    record(top / "long b", [1 / tick for tick in range(1, 101)], lr=2)
    record(top / "cut", [1.0])
    (top / "cut" / "run.json").write_text("{")
    return top


def run_of(board: Served, name: str) -> str:
    return str(board.runs()[name]["id"])


def table(board: Served, *columns: str) -> dict[str, dict[str, object]]:
    """The rows of the table by the folders of the runs, which are their names too."""
    names = {run["id"]: run["folder"] for run in board.json("runs")["runs"]}
    waiting: list[str] | None = None
    while waiting is None or waiting:
        answer = board.json("table", columns=list(columns))
        waiting = answer["waiting"]
    return {names[run]: row for run, row in answer["rows"].items()}


def test_a_run_that_nobody_has_listed_yet_is_found_by_its_id(tmp_path: Path) -> None:
    def begun(name: str) -> str:
        record(tmp_path / name, [2.0])
        return str(json.loads((tmp_path / name / "run.json").read_text())["id"])

    first = begun("first")
    with serving(tmp_path) as board:
        assert board.json(f"runs/{first}")["name"] == "first"
        second = begun("second")
        assert board.json(f"runs/{second}")["name"] == "second"
        runs = {"runs": [first, begun("third")], "names": "loss"}
        assert b"error" not in board.client.get("/api/series", params=runs).content


def test_values_of_the_table(board: Served) -> None:
    rows = table(board, "last:loss", "min:loss", "max:loss", "best:loss", "config:optimizer.lr")
    assert rows["good"] == {
        "last:loss": 2.0,
        "min:loss": 1.0,
        "max:loss": 5.0,
        "best:loss": 1.0,
        "config:optimizer.lr": 0.1,
    }
    assert rows["bad"] == {"last:loss": 4.0, "min:loss": 3.0, "max:loss": 4.0, "best:loss": 3.0}
    assert rows["only nan"] == {
        "last:loss": "nan",
        "min:loss": None,
        "max:loss": None,
        "best:loss": None,
    }
    assert rows["odd"] == {}
    assert rows["cut"] == {}


def test_what_is_best_is_said_by_the_config_and_late_values_count(board: Served) -> None:
    odd = ("last:a,b", "last:<b>", "last:q\"uote's", "last:filename")
    rows = table(board, "best:score", "last:late", *odd)
    assert rows["odd"] == {
        "best:score": 2.0,
        "last:late": 7.0,
        "last:a,b": 1.0,
        "last:<b>": 2.0,
        "last:q\"uote's": 4.0,
        "last:filename": 6.0,
    }
    assert rows["good"] == {}


def test_a_growing_run_has_its_newest_values(folder: Path, board: Served) -> None:
    with Clock(folder / "growing", progress=False) as clock:
        for tick in clock.ticks([1.0, 2.0, 3.0]):
            clock.log(loss=tick)
            # a record is on the tape a quarter of a second later
            while tick > 1 and table(board, "last:loss")["growing"] != {"last:loss": tick - 1}:
                pass
    assert table(board, "last:loss", "max:loss")["growing"] == {"last:loss": 3.0, "max:loss": 3.0}
    shutil.rmtree(folder / "growing")


def test_wrong_columns_are_refused(board: Served) -> None:
    for column in ("loss", "mean:loss", "last:", "config:"):
        answer = board.client.get("/api/table", params={"columns": column})
        assert answer.status_code == 400
        assert answer.json()["fix"] == "last:loss"
    many = {"columns": [f"last:{number}" for number in range(101)]}
    assert board.client.get("/api/table", params=many).status_code == 400
    assert board.client.get("/api/table", params={"runs": "../.."}).status_code == 404


def test_names_for_pickers(board: Served) -> None:
    table(board)  # waits until runs are known
    answer = board.json("columns")
    assert answer["waiting"] == 0
    assert {"loss", "tokens", "score", "a,b", "late", "x\x1b[2J", "é/ü"} <= set(answer["metrics"])
    assert not {"time_ns", "rank", "data_ns"} & set(answer["metrics"])
    assert {"optimizer.lr", "optimizer.name", "ticks", "best_mode"} <= set(answer["config"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("loss<=2 state:finished", {"good", "long a", "long b"}),
        ("has:nan", {"bad", "only nan"}),
        ("has:inf", {"bad"}),
        ("loss=nan", {"only nan"}),
        ("config.optimizer.name=ticks", {"good"}),
        ("damaged", {"cut"}),
        ("state:damaged", {"cut"}),
        ("best.score>=2", {"odd"}),
        ("tick>=100 config.lr=2", {"long b"}),
        ('"a,b"=1', {"odd"}),
        ("long -config.lr=1", {"long b"}),
    ],
)
def test_search(board: Served, query: str, names: set[str]) -> None:
    table(board)
    while (answer := board.json("search", q=query))["waiting"]:
        pass
    found = set(answer["ids"])
    assert {name for name, run in board.runs().items() if run["id"] in found} == names


def test_a_mistake_in_a_search_is_no_error_of_the_board(board: Served) -> None:
    answer = board.json("search", q="loss<")
    assert answer == {"error": "a value must follow <", "at": 5}


def test_what_a_run_has(folder: Path, board: Served) -> None:
    info = board.json(f"runs/{run_of(board, 'odd')}")
    ticks = open_run(folder / "odd").ticks()
    assert info["metrics"] == ticks.metrics
    assert info["phases"] == ticks.phases
    assert "memory_bytes" in info["resources"]
    assert info["config"] == {"best": "score", "best_mode": "max"}
    assert (info["state"], info["total"], info["ranks"]) == ("finished", None, [0])
    (attempt,) = info["attempts"]
    assert (attempt["first"], attempt["last"], attempt["state"]) == (1, 2, "finished")
    assert info["axes"] == ["tick", "time", "elapsed", "training"]
    assert "tokens" in board.json(f"runs/{run_of(board, 'good')}")["axes"]
    assert info["notices"] == []


def test_attempts_and_what_they_left_behind(folder: Path, board: Served) -> None:
    record(folder / "resumed", [3.0, 2.0, 1.0])
    with Clock(folder / "resumed", progress=False, resume=True) as clock:
        for _ in clock.ticks([1], initial=1):
            pass
    info = board.json(f"runs/{run_of(board, 'resumed')}")
    assert [(one["first"], one["last"]) for one in info["attempts"]] == [(1, 3), (2, 2)]
    left = {"attempt": 0, "first": 2, "last": 3, "why": "resume", "by": 1}
    assert info["left_behind"] == [left]
    shutil.rmtree(folder / "resumed")


def test_events_are_in_words_and_counted(board: Served) -> None:
    run = run_of(board, "odd")
    every = board.json(f"runs/{run}/events")
    assert every["total"] == len(every["events"])
    (custom,) = board.json(f"runs/{run}/events", names=["custom"])["events"]
    assert custom["words"].startswith("custom: value <script>") or "custom" in custom["words"]
    assert custom["fields"] is None  # they are long
    assert board.json(f"runs/{run}/events", limit=1)["total"] == every["total"]
    assert board.json(f"runs/{run}/events", **{"from": 3})["events"] == []
    sql = "custom') or ('a' = 'a"
    assert board.json(f"runs/{run}/events", names=[sql])["total"] == 0
    times = [event["time_ns"] for event in every["events"]]
    assert times == sorted(times)


def test_the_slowest_ticks(folder: Path, board: Served) -> None:
    ticks = board.json(f"runs/{run_of(board, 'long a')}/slowest", n=3)["ticks"]
    query = "select tick, wall_ns from ticks order by wall_ns desc, tick limit 3"
    expected = open_run(folder / "long a").ticks().sql(query).fetchall()
    assert [(one["tick"], one["wall_ns"]) for one in ticks] == expected


def test_the_diagnosis_is_that_of_the_command(folder: Path, board: Served) -> None:
    found = board.json(f"runs/{run_of(board, 'bad')}/diagnosis")["findings"]
    expected = diagnose(open_run(folder / "bad"))
    assert [(one["rule"], one["what"]) for one in found] == [
        (finding.rule, finding.what) for finding in expected
    ]
    assert ("not-finite", [2]) in [(one["rule"], one["ticks"]) for one in found]


def test_a_comparison_has_differences_only_and_the_intervals(folder: Path, board: Served) -> None:
    runs = [run_of(board, name) for name in ("long a", "long b")]
    found = board.json(f"runs/{runs[0]}/compare", **{"with": runs[1]})
    assert found["config"] == [{"key": "lr", "a": 1, "b": 2}]
    assert found["versions"] == []
    expected = compare(open_run(folder / "long a"), open_run(folder / "long b"))
    median = next(one for one in found["measures"] if one["name"] == "tick_median_ns")
    assert median["ratio"] == pytest.approx(expected.measures["tick_median_ns"].ratio)
    assert found["statements"] == expected.statements
    short = board.json(f"runs/{runs[0]}/compare", **{"with": run_of(board, "good")})
    assert short["measures"] == []
    assert "intervals need at least 50 ticks" in short["notes"][0]
    assert {"key": "optimizer.lr", "b": 0.1} in short["config"]


def test_samples_never_run(board: Served) -> None:
    run = run_of(board, "odd")
    samples = board.json(f"runs/{run}/samples")["samples"]
    assert [(one["name"], one["kind"]) for one in samples] == [("text", "text"), ("table", "table")]
    answer = board.client.get(f"/api/runs/{run}/samples/0")
    assert answer.content == b"<script>alert(1)</script>"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    for number in ("2", "-1", "x", "0/../../x", "%2e%2e"):
        assert board.client.get(f"/api/runs/{run}/samples/{number}").status_code in (400, 404)


def test_a_sample_that_is_a_link_out_of_its_run_is_not_shown(folder: Path, board: Served) -> None:
    shutil.copytree(folder / "odd", folder / "link")
    (path,) = [one.path for one in open_run(folder / "link").samples() if one.kind == "text"]
    assert path is not None
    (folder / "secret").write_text("a secret")
    path.unlink()
    path.symlink_to(folder / "secret")
    runs = [run for run in board.json("runs")["runs"] if run["folder"] == "link"]
    answer = board.client.get(f"/api/runs/{runs[0]['id']}/samples/0")
    assert answer.status_code == 422
    assert "secret" not in answer.text.replace("a link", "")
    path.unlink()
    path.symlink_to(path.name)  # a loop
    assert board.client.get(f"/api/runs/{runs[0]['id']}/samples/0").status_code == 422
    shutil.rmtree(folder / "link")


def test_a_stretch_is_of_numbers(board: Served) -> None:
    run = run_of(board, "good")
    for route in ("series", "resources", "phases", "ticktimes", "ranks", "norms"):
        for name, value in (("from", "nan"), ("to", "-inf"), ("width", "nan"), ("width", "1e999")):
            query = {"runs": run, "names": "loss", name: value}
            at = "/api/series" if route == "series" else f"/api/runs/{run}/{route}"
            answer = board.client.get(at, params=query)
            assert answer.status_code == 400, (route, query)
            assert answer.json()["error"].startswith(f"{name}: ")


@pytest.mark.parametrize(
    "path",
    [
        "/page/VERSION/../../app.py",
        "/page/VERSION/..%2f..%2fapp.py",
        "/page/VERSION/%2e%2e/%2e%2e/app.py",
        "/page/VERSION/",
        "/page/VERSION/.hidden",
        "/page/%00",
        "/vendor/../../errors.py",
        "//etc/passwd",
        "/api/runs/..%2f..%2fetc/config",
        "/api/runs/../../etc/passwd",
        "/page/",
        "/page",
        "/page/.hidden",
    ],
)
def test_no_path_leads_to_another_file(board: Served, path: str) -> None:
    version = board.file("page/main.js").split("/")[2]
    answer = board.client.get(path.replace("VERSION", version))
    assert answer.status_code in (400, 401, 404)
    assert "import" not in answer.text


def test_a_run_that_is_not_there_or_is_damaged(board: Served) -> None:
    for route in ("", "/events", "/config", "/diagnosis", "/samples", "/slowest"):
        assert board.client.get(f"/api/runs/nobody{route}").status_code == 404
    damaged = board.runs()["cut"]
    assert "must be a run description" in damaged["damaged"]
    answer = board.client.get(f"/api/runs/{damaged['id']}")
    assert answer.status_code == 422
    assert "must be a run description" in answer.json()["error"]


def test_a_part_that_is_damaged_is_an_error_of_that_run_alone(folder: Path, board: Served) -> None:
    shutil.copytree(folder / "long a", folder / "broken")
    (part,) = (folder / "broken" / "ticks").rglob("*.parquet")
    data = part.read_bytes()
    part.write_bytes(data[:100] + bytes(len(data) - 200) + data[-100:])
    runs = {run["folder"]: run["id"] for run in board.json("runs")["runs"]}
    for route in ("", "/slowest", "/diagnosis"):
        answer = board.client.get(f"/api/runs/{runs['broken']}{route}")
        assert answer.status_code in (200, 422)
        if answer.status_code == 422:
            assert "readable" in answer.json()["error"]
    assert board.client.get(f"/api/runs/{runs['good']}/slowest").status_code == 200
    shutil.rmtree(folder / "broken")


@pytest.mark.parametrize("change", ["if(tick = 50, null, tick)", "'fifty'", "[tick]"])
def test_a_part_with_ticks_that_are_no_numbers_is_listed_and_the_rest_is_shown(
    folder: Path, board: Served, change: str
) -> None:
    run = folder / "odd part"
    for attempt in range(2):
        with Clock(run, progress=False, resume=attempt > 0) as clock:
            for _ in clock.ticks(range(100), initial=clock.tick):
                clock.log(loss=1.0)
        seal_run(run)
    (part,) = (run / "ticks" / "attempt=1").rglob("*.parquet")
    copy = f"select * replace ({change} as tick) from read_parquet('{part}')"
    duckdb.sql(f"copy ({copy}) to '{part}.new' (format parquet)")
    Path(f"{part}.new").rename(part)
    found = run_of(board, "odd part")
    assert board.json(f"runs/{found}")["notices"] == [f"{part}: a damaged part was left out"]
    for route in ("phases", "ticktimes", "ranks", "diagnosis", "slowest"):
        assert board.client.get(f"/api/runs/{found}/{route}").status_code == 200, route
    answer = board.client.get("/api/series", params={"runs": found, "names": "loss"})
    assert b'"rows":100' in answer.content
    assert len(board.json(f"runs/{found}/slowest", n=100)["ticks"]) == 100
    shutil.rmtree(run)


@pytest.mark.parametrize(
    ("folders", "route"),
    [
        ("resources/attempt=0/rank=0", "resources?names=memory_bytes"),
        ("ticks/attempt=0/rank=0", "ticktimes"),
        ("ticks/attempt=0/rank=0", "slowest"),
        ("events/attempt=0/rank=0", "events"),
        ("samples", "samples/0"),
    ],
)
def test_a_file_in_the_place_of_a_folder_is_an_error_of_that_run(
    folder: Path, board: Served, folders: str, route: str
) -> None:
    broken = folder / "broken"
    shutil.copytree(folder / "long a", broken)
    shutil.rmtree(broken / folders, ignore_errors=True)
    (broken / folders).write_bytes(b"x")
    runs = {run["folder"]: run["id"] for run in board.json("runs")["runs"]}
    answer = board.client.get(f"/api/runs/{runs['broken']}/{route}")
    assert answer.status_code in (200, 404, 422)
    if answer.status_code == 422:
        assert "must be" in answer.json()["error"]
    shutil.rmtree(broken)


def test_a_config_of_10_mb(folder: Path, board: Served) -> None:
    config = {"text": "x" * 5_000_000, "list": list(range(700_000)), "deep": {"a": {"b": 1}}}
    config |= {f"option {number}": number for number in range(6000)}
    record(folder / "large", [1.0], **config)
    run = run_of(board, "large")
    answer = board.client.get(f"/api/runs/{run}/config")
    assert len(answer.content) < 1 << 20
    found = answer.json()
    assert len(found["config"]) == 5000
    assert found["left_out"] == 1003
    assert len(found["config"]["text"]) == 2000
    assert found["config"]["list"] == "list of 700,000"
    assert found["config"]["deep.a.b"] == 1
    assert len(board.client.get(f"/api/runs/{run}").content) < 1 << 20
    assert table(board, "config:option 3")["large"] == {"config:option 3": 3}
    shutil.rmtree(folder / "large")


def test_a_tape_that_is_cut_while_it_is_read(folder: Path, board: Served) -> None:
    with Clock(folder / "torn", progress=False) as clock:
        for tick in clock.ticks(range(200)):
            clock.log(loss=tick)
    (part,) = (folder / "torn" / "ticks").rglob("*.parquet")
    line = '{"tick":%d,"time_ns":%d,"wall_ns":1,"beats":1,"phases":{},"metrics":{"loss":%d}}\n'
    whole = "".join(line % (tick, tick, tick) for tick in range(1, 201)).encode()
    part.unlink()
    tape = part.parent / "_live.jsonl"
    run = ""
    for length in range(len(whole), 0, -997):
        tape.write_bytes(whole[:length])
        run = run or run_of(board, "torn")
        assert board.json(f"runs/{run}/slowest", n=100)["ticks"] is not None
        ticks = whole[:length].count(b"\n")
        assert board.json(f"runs/{run}")["attempts"][0]["last"] == ticks
    shutil.rmtree(folder / "torn")


@pytest.mark.parametrize("kind", ["ticks", "events"])
def test_a_tape_of_2_gb_is_refused_and_takes_no_memory(
    folder: Path, board: Served, kind: str
) -> None:
    shutil.copytree(folder / "long a", folder / "huge")
    with open(folder / "huge" / kind / "attempt=0" / "rank=0" / "_live.jsonl", "wb") as tape:
        tape.truncate(2 << 30)
    runs = {run["folder"]: run["id"] for run in board.json("runs")["runs"]}
    before = psutil.Process().memory_info().rss
    table(board, "last:loss")
    for route in ("", "/slowest", "/ticktimes", "/events", "/diagnosis"):
        answer = board.client.get(f"/api/runs/{runs['huge']}{route}")
        assert answer.status_code == 422
        assert answer.json()["fix"].startswith("metronorm seal ")
    assert psutil.Process().memory_info().rss - before < 256 << 20
    (huge,) = [run for run in board.json("runs")["runs"] if run["folder"] == "huge"]
    assert "512 MiB of lines that are not sealed; got 2 GiB in" in huge["damaged"]
    shutil.rmtree(folder / "huge")


def test_the_page_is_not_sent_again_and_its_files_are_kept_for_good(board: Served) -> None:
    first = board.client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    same = board.client.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    files = re.findall(r'(?:href|src)="([^"#]+)"', first.text)
    assert len(files) > 5
    for name in files:
        answer = board.client.get(f"/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert (
        board.client.get(board.file("page/main.js"))
        .headers["content-type"]
        .startswith("text/javascript")
    )
    assert board.client.get("/page/main.js").status_code == 404


def test_what_is_long_is_sent_packed(board: Served) -> None:
    for name in ("page/main.js", "page/parts.css", "vendor/uPlot.iife.min.js"):
        path = board.file(name)
        answer = board.client.get(path)
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
        plain = board.client.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content


def test_notes_are_written_beside_the_run_and_change_nothing_of_it(
    folder: Path, board: Served
) -> None:
    run = run_of(board, "good")
    before = {path: path.read_bytes() for path in (folder / "good").rglob("*") if path.is_file()}
    answer = board.client.put(f"/api/runs/{run}/notes", json={"tags": ["x"], "note": "<b>mine"})
    assert answer.json()["note"] == "<b>mine"
    assert board.runs()["good"]["tags"] == ["x"]
    after = {path: path.read_bytes() for path in (folder / "good").rglob("*") if path.is_file()}
    new = folder / "good" / "board" / "notes.json"
    assert json.loads(after.pop(new)) == {"tags": ["x"], "note": "<b>mine"}
    assert after == before
    assert board.client.put(f"/api/runs/{run}/notes", json={"starred": 1}).status_code == 400
    too_long = {"note": "x" * (300 << 10)}
    assert board.client.put(f"/api/runs/{run}/notes", json=too_long).status_code == 400


def test_a_board_without_runs_tells_where_it_looks(tmp_path: Path) -> None:
    with serving(tmp_path / "later") as served:
        answer = served.json("runs")
        assert (answer["runs"], answer["roots"]) == ([], [str(tmp_path / "later")])
        record(tmp_path / "later" / "first", [1.0])
        assert list(served.runs()) == ["first"]


def test_the_series_that_are_kept_take_a_limited_part_of_the_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = state.Board([folder])
    board.listing.look()
    good, long_a, long_b = (
        next(one for one in board.listing.entries() if one.folder == name)
        for name in ("good", "long a", "long b")
    )
    first = board.series(long_a)
    first.reduce(["loss"])
    assert board.series(good) is board.series(good)
    assert board.series(long_a) is first
    monkeypatch.setattr(state, "MOST_BYTES", first.nbytes)
    second = board.series(long_b)
    assert board.series(long_b) is second
    assert board.series(long_a) is not first
    board.close()


def test_a_run_of_many_columns_takes_a_limited_part_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"metric {number}" for number in range(20)]
    with Clock(tmp_path / "run", progress=False) as clock:
        for tick in clock.ticks(range(1000)):
            clock.log(**dict.fromkeys(names, float(tick)))
    seal_run(tmp_path / "run")
    board = state.Board([tmp_path])
    board.listing.look()
    (entry,) = board.listing.entries()
    series = board.series(entry)
    before = [series.reduce([name], Chart(smooth=0.5)).to_bytes() for name in names]
    monkeypatch.setattr(state, "MOST_BYTES", series.nbytes // 2)
    for name, data in zip(names, before, strict=True):
        assert board.series(entry) is series
        assert series.nbytes <= state.MOST_BYTES
        assert series.reduce([name], Chart(smooth=0.5)).to_bytes() == data
    board.close()


def test_too_many_requests_are_told_to_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(folder) as served:
        monkeypatch.setattr(state, "MOST_WAITING", 0)
        answer = served.client.get("/api/runs")
        assert answer.status_code == 503
        assert answer.json()["error"] == "a board answers a few requests at once"
    assert routes.MOST_COLUMNS == 100


def test_series_are_those_of_the_run_and_are_not_sent_twice(folder: Path, board: Served) -> None:
    run = run_of(board, "good")
    query = {"runs": run, "names": ["loss", "no such metric"], "width": 500}
    answer = board.client.get("/api/series", params=query)
    assert answer.headers["content-type"] == "application/octet-stream"
    reduced = RunSeries(folder / "good").reduce(["loss"], Chart(width=500.0)).to_bytes()
    assert answer.content == len(reduced).to_bytes(8, "little") + reduced
    headers = {"If-None-Match": answer.headers["etag"]}
    again = board.client.get("/api/series", params=query, headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    for wrong in ({"x": "steps"}, {"width": 0}, {"from": 2, "to": 1}, {"smooth": 1}, {"rank": "a"}):
        answer = board.client.get("/api/series", params=query | wrong)
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_series_of_several_runs_come_in_one_answer(folder: Path, board: Served) -> None:
    names = ("good", "long a", "long b")
    query = {"runs": [run_of(board, name) for name in names], "names": "loss", "width": 500}
    query["runs"].insert(1, "no such run")
    answer = board.client.get("/api/series", params=query)
    pieces, data = [], answer.content
    while data:
        length = int.from_bytes(data[:8], "little")
        pieces.append(data[8 : 8 + length])
        data = data[8 + length :]
    assert b'"error":"the run must be on the board"' in pieces.pop(1)
    for name, piece in zip(names, pieces, strict=True):
        assert piece == RunSeries(folder / name).reduce(["loss"], Chart(width=500.0)).to_bytes()
    headers = {"If-None-Match": answer.headers["etag"]}
    assert board.client.get("/api/series", params=query, headers=headers).status_code == 304
    many = board.client.get("/api/series", params={"runs": ["good"] * 51})
    assert many.json()["error"] == "one request is for at most 50 runs"


def test_a_new_tick_changes_the_series(folder: Path, board: Served) -> None:
    tags = set()
    with Clock(folder / "live", progress=False) as clock:
        for tick in clock.ticks([1.0, 2.0, 3.0]):
            clock.log(loss=tick)
            run = run_of(board, "live")
            tags.add(board.client.get(f"/api/series?runs={run}&names=loss").headers["etag"])
    assert len(tags) == 3
    shutil.rmtree(folder / "live")


@pytest.mark.parametrize(
    ("route", "query", "kinds"),
    [
        ("phases", {}, {"x", "y", "max"}),
        ("ticktimes", {"width": 50}, {"x", "edges", "count"}),
        ("ranks", {"value": "wall"}, {"x", "rank", "value"}),
        ("norms", {"width": 10}, {"x"}),
        ("resources", {"names": ["memory_bytes", "nothing"]}, {"x", "y"}),
    ],
)
def test_overviews(board: Served, route: str, query: dict[str, object], kinds: set[str]) -> None:
    run = run_of(board, "long a")
    answer = board.client.get(f"/api/runs/{run}/{route}", params=query)
    assert answer.status_code == 200, answer.text
    header = json.loads(answer.content[4 : 4 + int.from_bytes(answer.content[:4], "little")])
    assert kinds <= {column["kind"] for column in header["columns"]}
    wrong = board.client.get(f"/api/runs/{run}/{route}", params=query | {"from": "x"})
    assert wrong.status_code == 400
