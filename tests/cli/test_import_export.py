import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.cli import export, import_run
from metronorm.errors import ConfigError, DataError, RunError
from metronorm.runs import open_run


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "history.csv"
    path.write_text("_step,_timestamp,loss\n1,10.0,0.5\n2,11.0,0.25\n")
    return path


def test_in_and_out(history: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert import_run.main([str(history), str(run)]) == 0
    assert capsys.readouterr().out == f"the run is in {run}\n"
    assert open_run(run).ticks().sql("select sum(loss) from ticks").fetchall() == [(0.75,)]
    for target in ("t.csv", "t.parquet", "log"):
        assert export.main([str(run), str(tmp_path / target)]) == 0
        assert capsys.readouterr().out == f"the run is in {tmp_path / target}\n"
    assert import_run.main([str(tmp_path / "log"), str(tmp_path / "again")]) == 0
    assert open_run(tmp_path / "again").ticks().metrics == ["loss"]


def test_a_format_that_is_given(history: Path, tmp_path: Path) -> None:
    other = history.rename(tmp_path / "history.csv.txt")
    with pytest.raises(DataError, match="--format"):
        import_run.main([str(other), str(tmp_path / "run")])
    with pytest.raises(DataError, match="CSV"):
        import_run.main([str(other), str(tmp_path / "run"), "--format", "wandb"])
    other.rename(history)
    import_run.main([str(history), str(tmp_path / "run")])
    export.main([str(tmp_path / "run"), str(tmp_path / "ticks.txt"), "--format", "csv"])
    assert (tmp_path / "ticks.txt").read_text().startswith("attempt,rank,tick")


def test_an_ending_of_another_kind_of_file_is_refused(history: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    import_run.main([str(history), run])
    for name in ("o.xlsx", "o.json", "o.csv.gz"):
        with pytest.raises(ConfigError, match=r"ends in \.csv or \.parquet.*--format"):
            export.main([run, str(tmp_path / name)])
        assert not (tmp_path / name).exists()
    for name in ("log", "lr=0.1", "v.2"):
        assert export.main([run, str(tmp_path / name)]) == 0
        assert list((tmp_path / name).glob("*tfevents*"))
    assert export.main([run, str(tmp_path / "o.tb"), "--format", "tensorboard"]) == 0
    assert export.main([run, str(tmp_path / "o.tb"), "--overwrite"]) == 0


def test_signs_of_patterns_in_paths_are_signs(history: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run[1]")
    import_run.main([str(history.rename(tmp_path / "h[0]*.csv")), run])
    for name in ("t[1].csv", "t?.parquet", "log*"):
        assert export.main([run, str(tmp_path / "o[2]" / name)]) == 0
        assert (tmp_path / "o[2]" / name).exists()
    assert import_run.main([str(tmp_path / "o[2]" / "log*"), str(tmp_path / "again")]) == 0
    assert open_run(tmp_path / "again").ticks().metrics == ["loss"]


def test_neither_way_loads_tensorflow_or_prints_what_is_not_ours(
    history: Path, tmp_path: Path
) -> None:
    code = f"""
import sys
from metronorm.cli import main
assert main(["import", {str(history)!r}, {str(tmp_path / "run")!r}]) == 0
assert main(["export", {str(tmp_path / "run")!r}, {str(tmp_path / "log")!r}]) == 0
assert main(["import", {str(tmp_path / "log")!r}, {str(tmp_path / "again")!r}]) == 0
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 3


def test_what_could_not_come_over_is_shown(tmp_path: Path) -> None:
    rows = '{"_step": 0, "_timestamp": 5, "loss": 2, "list": [1]}\n{"_step": "\\u001b[31m"}\n5'
    (tmp_path / "h.jsonl").write_text(rows)
    command = [sys.executable, "-m", "metronorm", "import", "h.jsonl", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "the run is in run\n")
    assert done.stderr.splitlines() == [
        "h: values left out that are neither numbers nor texts: 1, 1 of them of 'list'",
        "h: rows left out that have a _step that is not an integer of 64 bits: 1",
        "h: rows left out that are not JSON objects: 1",
    ]


def test_no_import_succeeds_without_a_tick(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text("_step,_timestamp,loss\n9223372036854775808,5,1\n")
    command = [sys.executable, "-m", "metronorm", "import", "h.csv", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "not an integer of 64 bits: 1" in done.stderr
    assert not (tmp_path / "run").exists()


def test_overwriting(history: Path, tmp_path: Path) -> None:
    run, target = str(tmp_path / "run"), str(tmp_path / "t.csv")
    import_run.main([str(history), run])
    export.main([run, target])
    with pytest.raises(RunError, match="--overwrite"):
        export.main([run, target])
    assert export.main([run, target, "--overwrite"]) == 0


@pytest.mark.parametrize("command", [import_run, export])
@pytest.mark.parametrize("arguments", [[], ["one"], ["a", "b", "--format", "xml"], ["a", "b", "c"]])
def test_bad_options_are_one_line(command: object, arguments: list[str]) -> None:
    main = command.main  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as raised:
        main(arguments)
    assert "\n" not in str(raised.value)
