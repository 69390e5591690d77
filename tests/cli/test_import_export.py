from pathlib import Path

import pytest

from metronorm.cli import export, import_run
from metronorm.clock import open_run
from metronorm.errors import ConfigError, DataError, RunError


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


def test_a_format_that_is_said(history: Path, tmp_path: Path) -> None:
    other = history.rename(tmp_path / "history.csv.txt")
    with pytest.raises(DataError, match="--format"):
        import_run.main([str(other), str(tmp_path / "run")])
    with pytest.raises(DataError, match="CSV"):
        import_run.main([str(other), str(tmp_path / "run"), "--format", "wandb"])
    other.rename(history)
    import_run.main([str(history), str(tmp_path / "run")])
    export.main([str(tmp_path / "run"), str(tmp_path / "ticks.txt"), "--format", "csv"])
    assert (tmp_path / "ticks.txt").read_text().startswith("attempt,rank,tick")


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
