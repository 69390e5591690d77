"""`metronorm tune` and `--learning-rate auto` at the command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metronorm.cli import main
from metronorm.tune import open_study

from ..train.tiny import write_text

TINY = [
    "--data", "text", "--tokenizer", "char", "--cache", "cache",
    "--model.context", "16", "--model.layers", "1", "--model.heads", "2", "--model.width", "16",
    "--batch-size", "2", "--precision", "fp32", "--allocator", "system", "--device", "cpu",
    "--evaluate-tokens", "64",
]  # fmt: skip
SPACE = """
[optimizer.learning-rate]
log = [1e-3, 1e-1]
[model]
norm = { choices = ["layer", "rms"] }
"""
RECIPE = Path(__file__).parents[1] / "tune" / "least_squares.py"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, a space and a study of three trials."""
    folder = tmp_path_factory.mktemp("workplace")
    write_text(folder / "text")
    (folder / "space.toml").write_text(SPACE)
    (folder / "rates.toml").write_text("[optimizer]\nlearning_rat = { log = [1e-3, 1e-1] }\n")
    shutil.copy(RECIPE, folder / "own.py")
    before = Path.cwd()
    os.chdir(folder)
    try:
        options = ["--ticks", "4", "--space", "space.toml", "--seeds", "1", "--budget", "3runs"]
        assert main(["tune", *TINY, *options, "--study", "studies/old"]) == 0
    finally:
        os.chdir(before)
    return folder


def test_a_study_ends_with_a_config_that_train_takes(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace)
    study = open_study("studies/old")
    assert len(study.known()) == 3
    table = (workplace / "studies/old/trials.csv").read_text().splitlines()
    assert table[0].endswith("loss,optimizer.learning-rate,model.norm")
    assert len(table) == 4
    # with a larger budget it goes on, and says what it has found
    assert main(["tune", "--study", "studies/old", "--budget", "4runs"]) == 0
    out = capsys.readouterr().out
    assert "what it cost   4 trials (4 done), as long as 4 whole runs" in out
    assert "the best: metronorm train --config studies/old/best.toml" in out
    assert len(open_study("studies/old").known()) == 4
    assert main(["train", "--config", "studies/old/best.toml", "--run", "best"]) == 0
    best = min(each.value for each in study.known() if each.value is not None)
    assert f"{best:.4f}" in capsys.readouterr().out
    figure = study.figure()
    assert {len(trace.x) for trace in figure.data} == {4}
    (lines,) = study.parallel().data
    assert [axis.label for axis in lines.dimensions] == ["learning-rate", "norm", "loss"]
    assert [len(axis["values"]) for axis in lines.dimensions] == [4, 4, 4]


def test_a_recipe_is_tuned_with_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECIPE, tmp_path / "own.py")
    (tmp_path / "space.toml").write_text("hidden = { integers = [2, 8] }\n")
    options = ["--space", "space.toml", "--budget", "2runs", "--seeds", "1"]
    assert main(["tune", "--recipe", "own.py", *options]) == 0
    assert "the best: metronorm train --config studies/own/best.toml" in capsys.readouterr().out
    assert main(["train", "--config", "studies/own/best.toml", "--run", "best"]) == 0


def test_a_learning_rate_is_found_before_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["train", "--recipe", str(RECIPE), "--ticks", "60", "--run", "runs/own"]
    assert main([*argv, "--learning-rate", "auto"]) == 0
    err = capsys.readouterr().err
    assert "10 ticks at 0.001: loss" in err
    assert "learning rate " in err
    config = (tmp_path / "runs/own/config.toml").read_text()
    assert "learning_rate = 0.001\n" not in config
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["own"]


CASES = {
    "a space that names no option": (
        ["tune", "--space", "rates.toml"],
        "rates.toml must name options of the task; got 'optimizer.learning_rat'; "
        "try: optimizer.learning-rate",
    ),
    "no space": (["tune", "--space", "none.toml"], "a config must be a readable file; got none"),
    "an option in both": (
        ["tune", "--space", "space.toml", "--optimizer.learning-rate", "1e-3"],
        "searched or be given, and not both; got --optimizer.learning-rate",
    ),
    "no budget": (["tune", "--budget", "40"], "a budget must be a number of runs, or a time"),
    "too small a budget": (["tune", "--budget", "0.5runs"], "a budget must allow one run"),
    "too short a budget": (
        ["tune", *TINY, "--minutes", "1", "--budget", "10s"],
        "a budget must allow one run; got 10 s, where a run takes about 1 min",
    ),
    "a study of another task": (
        ["tune", "--recipe", "own.py", "--study", "studies/old"],
        "a study goes on with the task that it is of; got --recipe own.py",
    ),
    "a study of another command": (
        ["tune", "finetune", "model", "text", "--study", "studies/old"],
        "a study goes on with the task that it is of; got finetune",
    ),
    "a study with another config": (
        ["tune", "--study", "studies/old", "--batch-size", "4"],
        "config that it was begun with; got batch_size: 2 in the run, 4 asked for",
    ),
    "another folder": (["tune", "--study", "text"], "a study needs a directory of its own"),
    "no recipe": (["tune", "--recipe", "none.py"], "a recipe must be a Python file"),
    "a rate twice": (
        ["train", "--learning-rate", "auto", "--optimizer.learning-rate", "1e-3"],
        "a learning rate is given or found; got --optimizer.learning-rate",
    ),
    "a rate of a run that goes on": (
        ["train", "--resume", "studies/old/trials/000", "--learning-rate", "auto"],
        "--learning-rate auto is for a new run",
    ),
    "a rate by several processes": (
        ["train", "--learning-rate", "auto", "--processes", "2"],
        "--learning-rate auto makes short runs on one process",
    ),
    "a rate for a few ticks": (
        ["train", *TINY, "--ticks", "20", "--learning-rate", "auto", "--run", "short"],
        "must have at least 40 ticks; got 20",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(
    case: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, expected = CASES[case]
    monkeypatch.chdir(workplace)
    before = sorted(workplace.rglob("*"))
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert expected in err
    assert [path for path in sorted(workplace.rglob("*")) if "cache" not in path.parts] == [
        path for path in before if "cache" not in path.parts
    ]


@pytest.mark.slow
def test_a_fine_tuning_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, as transformers is loaded there."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "text")
    run = [*TINY, "--ticks", "2", "--run", "runs/base"]
    run[run.index("char")] = "bpe"
    assert main(["train", *run, "--vocab-size", "300"]) == 0
    assert main(["export", "runs/base", "model", "--format", "huggingface"]) == 0
    words = ["tune", "finetune", "model", "text", "--task", "text", "--way", "full"]
    words += ["--context", "16", "--ticks", "4", "--batch-size", "2", "--precision", "fp32"]
    words += ["--allocator", "system", "--device", "cpu", "--budget", "3runs", "--seeds", "1"]
    words += ["--study", "study"]
    subprocess.run([sys.executable, "-m", "metronorm", *words], check=True)
    assert [each.value is not None for each in open_study("study").known()] == [True] * 3
