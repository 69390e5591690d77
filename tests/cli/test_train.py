"""`metronorm train` with recipes, files of options, branches and plans."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from metronorm.cli import main
from metronorm.runs import open_run
from metronorm.train import train

from ..train.stranger import small, task
from ..train.tiny import write_text
from .test_bad_input import TINY

RECIPE = '''"""A recipe for a test."""
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.train.stranger import Config, task
'''
SMALL = ["--ticks", "12", "--precision", "fp32", "--allocator", "system", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = str(Path(__file__).parents[2])
    (tmp_path / "own.py").write_text(RECIPE.format(root=root))
    return tmp_path


def rows(run: str) -> list[tuple[int, float]]:
    return [(row["tick"], row["loss"]) for row in open_run(Path(run)).ticks().rows()]


def test_a_recipe_is_trained_and_resumed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", "own.py", *SMALL, "--width", "5"]) == 0
    out, err = capsys.readouterr()
    assert "the run is in runs/own" in out
    assert "test accuracy: 0." in out
    for line in ("run        runs/own", "12 ticks of 16 examples", "metronorm watch runs/own"):
        assert line in err
    assert main(["train", "--resume", "runs/own", "--ticks", "14"]) == 0
    assert len(rows("runs/own")) == 14
    assert open_run(Path("runs/own")).info.config["width"] == 5


def test_help_of_a_recipe_has_its_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--recipe", "own.py", "--help"])
    out = capsys.readouterr().out
    assert "A recipe for a test.\n\nThe recipe's own options: --width, --batches.\n" in out
    assert re.search(r"--width INT +Size of the hidden layer", out)
    assert out.index("│ --width") < out.index("│ --ticks")
    for of_text in ("--model.layers", "--preset", "--data", "--cache"):
        assert of_text not in out


def test_a_runs_file_of_options_starts_the_same_run_again(folder: Path) -> None:
    assert main(["train", "--recipe", "own.py", *SMALL, "--batch-size", "8"]) == 0
    assert main(["train", "--config", "runs/own/config.toml", "--run", "runs/again"]) == 0
    assert rows("runs/again") == rows("runs/own")
    assert main(["train", "--config", "runs/own/config.toml", "--run", "b", "--seed", "5"]) == 0
    assert rows("b") != rows("runs/own")


def test_text_has_a_file_of_options_too(folder: Path) -> None:
    write_text(folder / "text")
    assert main(["train", *TINY]) == 0
    assert main(["train", "--config", "runs/old/config.toml", "--run", "again"]) == 0
    assert rows("again") == rows("runs/old")
    shutil.rmtree(folder / "text")
    write_text(folder / "text", documents=3)
    assert main(["train", "--config", "runs/old/config.toml", "--run", "b"]) == 2
    assert not Path("b").exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_new_run_with_other_data_than_its_file_of_options_names(
    dry: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokens of the old text are in the cache: they are not taken for the other text."""
    write_text(folder / "text")
    write_text(folder / "other", documents=3)
    assert main(["train", *TINY]) == 0
    command = ["train", "--config", "runs/old/config.toml", "--data", "other", "--run", "b", *dry]
    capsys.readouterr()
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "the data must be that of data_id in runs/old/config.toml; got" in err
    assert "remove the line data_id from runs/old/config.toml" in err
    assert "resume" not in err
    text = Path("runs/old/config.toml").read_text()
    Path("other.toml").write_text(re.sub("data_id = .*", "", text))
    command[2] = "other.toml"
    assert main(command) == 0


def test_paths_in_a_file_of_options_begin_at_its_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--recipe", "own.py", *SMALL]) == 0
    inner = folder / "inner"
    inner.mkdir()
    (folder / "own.py").rename(inner / "theirs.py")
    (inner / "a.toml").write_text('recipe = "theirs.py"\ninit_from = "../runs/own"\n')
    assert main(["train", "--config", "inner/a.toml", *SMALL, "--run", "b"]) == 0
    config = open_run(Path("b")).info.config
    assert config["recipe"] == str(inner / "theirs.py")
    assert Path(config["init_from"]).samefile(folder / "runs/own")
    (inner / "none.toml").write_text('recipe = "owm.py"\n')
    capsys.readouterr()
    assert main(["train", "--config", "inner/none.toml"]) == 2
    assert str(inner / "owm.py") in capsys.readouterr().err


def test_paths_of_text_in_a_file_of_options_begin_at_its_folder(folder: Path) -> None:
    inner = folder / "in[1]"
    write_text(inner / "text")
    (inner / "a.toml").write_text('[text]\ndata = ["text/*.txt"]\ncache = "../tokens"\n')
    rest = [*TINY[2:4], *TINY[8:], "--run", "b"]
    assert main(["train", "--config", "in[1]/a.toml", *rest]) == 0
    assert Path(open_run(Path("b")).info.config["text"]["cache"]).samefile("tokens")
    assert main(["train", "--config", "b/config.toml", "--run", "c"]) == 0
    assert rows("c") == rows("b")


def test_resume_or_start(folder: Path) -> None:
    command = ["train", "--recipe", "own.py", *SMALL, "--resume-or-start", "runs/x"]
    assert main(command) == 0
    assert main(command) == 0
    assert open_run(Path("runs/x")).attempts == [0, 1]
    assert len(rows("runs/x")) == 12


def test_resume_or_start_with_a_preset(folder: Path) -> None:
    write_text(folder / "text")
    options = [option for option in TINY if option not in ("--run", "runs/old")]
    command = ["train", "--preset", "quick", *options, "--resume-or-start", "runs/x"]
    assert main(command) == 0
    assert main(command) == 0
    assert open_run(Path("runs/x")).attempts == [0, 1]


def test_a_run_of_a_task_from_python_asks_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(task, small(ticks=2), folder / "run")
    assert main(["train", "--resume", "run"]) == 2
    assert "goes on with that task; got run, which no recipe was named for" in (
        capsys.readouterr().err
    )
    assert main(["train", "--resume", "run", "--recipe", "own.py", "--ticks", "3"]) == 0


@pytest.mark.parametrize("batches", ["workers", "persistent"])
def test_a_signal_to_the_whole_group_spares_the_workers(folder: Path, batches: str) -> None:
    """As from `timeout`, a scheduler, or Ctrl-C in a terminal."""
    options = ["--batches", batches, "--checkpoint-every", "100000", "--evaluate-every", "100000"]
    command = [sys.executable, "-m", "metronorm", "train", "--recipe", "own.py", *SMALL, *options]
    training = subprocess.Popen(
        [*command, "--ticks", "100000"], stderr=subprocess.PIPE, start_new_session=True
    )
    with training:
        assert training.stderr is not None
        while b"/100000 [" not in training.stderr.read1():
            assert training.poll() is None
        os.killpg(training.pid, signal.SIGTERM)
        training.stderr.read()
        assert training.wait() == 128 + signal.SIGTERM
    (saved,) = Path("runs/own/checkpoints").iterdir()
    assert len(rows("runs/own")) == int(saved.name.removeprefix("tick-"))


def test_processes_end_with_their_launcher(folder: Path) -> None:
    """Else they would train on, and no restarted job could go on with the run."""
    command = [sys.executable, "-m", "metronorm", "train", "--recipe", "own.py", *SMALL]
    launcher = subprocess.Popen(
        [*command, "--processes", "2", "--ticks", "100000"], stderr=subprocess.PIPE
    )
    with launcher:
        assert launcher.stderr is not None
        while b"/100000 [" not in launcher.stderr.read1():
            assert launcher.poll() is None
        launcher.kill()
        launcher.stderr.read()  # to its end: no process has it open any more
    newest = max(Path("runs/own/checkpoints").iterdir(), key=lambda path: path.name)
    done = int(newest.name.removeprefix("tick-"))
    assert len(rows("runs/own")) >= done > 0
    assert main(["train", "--resume", "runs/own", "--ticks", str(done + 1)]) == 0


def test_text_is_sampled_from_runs_of_text(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(task, small(ticks=2), folder / "run")
    assert main(["sample", "run"]) == 2
    assert "this is for runs of text; got" in capsys.readouterr().err


def test_a_branch_and_its_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", "own.py", *SMALL, "--checkpoint-every", "4"]) == 0
    slower = ["--optimizer.learning-rate", "1e-5"]
    assert main(["train", "--resume", "runs/own", *slower]) == 2
    assert "--from-tick N" in capsys.readouterr().err
    assert main(["train", "--resume", "runs/own", "--from-tick", "8", *slower]) == 0
    capsys.readouterr()
    assert main(["show", "runs/own"]) == 0
    out = capsys.readouterr().out
    assert "branch" in out
    assert main(["train", "--resume", "runs/own", "--from-tick", "7"]) == 2
    assert "a checkpoint of tick 7; got" in capsys.readouterr().err


def test_a_plan_makes_no_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", "own.py", *SMALL, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "195 parameters on cpu in fp32" in out
    assert "12 ticks of 16 examples, 192 in all, 1.0 passes over the data" in out
    assert re.search(r"time +\S+ \S+ a tick", out)
    assert re.search(r"memory +\S+ [MG]iB", out)
    assert not Path("runs").exists()


def test_a_plan_for_several_processes_is_made_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["train", "--recipe", "own.py", *SMALL, "--parallel", "fsdp", "--dry-run"]
    assert main([*plan, "--processes", "4"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"tensors +\S+ KiB on each process by prediction: parameters \d", out)
    assert re.search(r"network +\S+ KiB sent by each of 4 processes in a tick \(fsdp\)", out)
    for rank in ("1", "0"):  # as torchrun would start them; none waits for another
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert main(plan) == 0
        assert ("sent by each of 2 processes" in capsys.readouterr().out) == (rank == "0")
    assert main([*plan, "--processes", "2"]) == 2
    assert "--processes starts processes of its own" in capsys.readouterr().err
    assert not Path("runs").exists()


MISTAKES = {
    "no recipe": (["--recipe", "owm.py"], "a recipe must be a Python file; got 'owm.py'"),
    "no task": (["--recipe", "empty.py"], "python empty.py, if it has a loop"),
    "no config": (["--config", "none.toml"], "a config must be a readable file; got none.toml"),
    "no TOML": (["--config", "own.py"], "a config must be TOML; got own.py"),
    "an unknown name": (["--config", "typo.toml"], "got tikcs; try: ticks"),
    "an unknown nested name": (["--config", "nested.toml"], "optimizer.learning_rat; try: optim"),
    "a text for a number": (
        ["--config", "kind.toml"],
        "in kind.toml, ticks must be a whole number",
    ),
    "from a tick of nothing": (["--from-tick", "3"], "--from-tick is for --resume RUN"),
    "two ways at once": (["--resume-or-start", "a", "--run", "b"], "names the run alone"),
    "weights of nothing": (["--init-from", "nowhere"], "nowhere"),
    "a recipe without a path": (["--recipe", ""], "--recipe needs a path; got ''"),
    "no Python": (
        ["--recipe", "syntax.py"],
        "must be a Python file; got '(' was never closed",
    ),
    "no default": (["--recipe", "bare.py"], "must have a default; got none of x in bare.py"),
    "no dataclass": (["--recipe", "plain.py"], "must be a dataclass; got x in plain.py, no field"),
    "a name of the command": (["--recipe", "taken.py"], "than the options of the command; got run"),
    "a check of its own": (["--recipe", "check.py"], "must suit the recipe; got x is too small"),
    "no task made": (["--recipe", "none.py"], "must return a Task; got a NoneType"),
    "too many brackets": (["--config", "deep.toml"], "a config must be TOML; got deep.toml: maxi"),
    "too many digits": (["--config", "digits.toml"], "a config must be TOML; got digits.toml: "),
    "a text for a table": (["--config", "table.toml"], "table.toml"),
    "a number for a recipe": (["--config", "path.toml"], "the path of a Python file; got 3"),
}


OWN_CONFIG = """from dataclasses import dataclass
from metronorm.train import TrainConfig
def task(config): return None
"""
OWN_CONFIGS = {
    "syntax.py": "x = (",
    "bare.py": "@dataclass(frozen=True, kw_only=True)\nclass Config(TrainConfig):\n  x: int",
    "plain.py": "class Config(TrainConfig):\n  x: int = 3",
    "taken.py": "@dataclass(frozen=True)\nclass Config(TrainConfig):\n  run: int = 3",
    "check.py": "class Config(TrainConfig):\n"
    "  def __post_init__(self): raise ValueError('x is too small')",
    "none.py": "Config = TrainConfig",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.py").write_text("Config = 3\n")
    (folder / "typo.toml").write_text("tikcs = 3\n")
    (folder / "nested.toml").write_text("[optimizer]\nlearning_rat = 3\n")
    (folder / "kind.toml").write_text('ticks = "many"\n')
    (folder / "deep.toml").write_text("a = " + "[" * 5000)
    (folder / "digits.toml").write_text("ticks = " + "9" * 5000)
    (folder / "path.toml").write_text("recipe = 3\n")
    (folder / "table.toml").write_text('text = "notes.txt"\n')
    for file, text in OWN_CONFIGS.items():
        (folder / file).write_text(OWN_CONFIG + text)
    arguments, says = MISTAKES[name]
    if "--recipe" not in arguments and "--config" not in arguments:
        arguments = ["--recipe", "own.py", *SMALL, *arguments]
    assert main(["train", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("metronorm")]) == 1


def test_the_last_of_an_option_that_is_given_twice_counts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--recipe", "no.py", "--recipe", "own.py", *SMALL, "--ticks", "x"]) == 2
    assert "--ticks must be a whole number; got 'x'" in capsys.readouterr().err


def test_options_may_come_from_a_pipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It can be read only once, and names the recipe."""
    os.mkfifo(folder / "pipe")
    text = '\ufeffrecipe = "own.py"\nticks = 3\n'  # as an editor on Windows begins it
    feed = threading.Thread(target=(folder / "pipe").write_text, args=(text,))
    feed.start()
    assert main(["train", "--config", "pipe", *SMALL[2:], "--run", "x"]) == 0
    feed.join()
    assert len(rows("x")) == 3
    assert main(["train", "--resume", "x", "--config", "pipe"]) == 2
    assert "--config is for a new run" in capsys.readouterr().err


def test_a_thousand_processes_are_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "--processes", "100000", "--run", str(run)]) == 2
    said = capsys.readouterr().err
    assert "for each core; got 100,000; try: --dry-run" in said
    assert not run.exists()
