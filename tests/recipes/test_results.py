"""Rows of figures: what a training's test set said, and what the run says of itself."""

import sys
from pathlib import Path

import pytest

from metronorm.clock import Clock, read_run_info
from metronorm.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from lib import results


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows are added here."""
    for function in (results.add, results.rows):
        monkeypatch.setitem(function.__kwdefaults__, "folder", tmp_path / "results")
    return tmp_path / "results"


def record(run: Path, **last: float) -> None:
    with Clock(
        run, config={"fold": 3, "ticks": 2, "width": 8, "optimizer": {"learning_rate": 0.5}}
    ) as clock:
        for number in clock.ticks(range(2)):
            clock.log(loss=1.0, **(last if number else {}))


def call(monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 0, **last: float) -> int:
    """The script, with a training that records a run where the words say."""
    given: list[list[str]] = []

    def training(argv: list[str]) -> int:
        given.append(argv)
        assert argv[:3] == ["train", "--recipe", "recipes/some.py"]
        if "--run" in argv:
            record(Path(argv[argv.index("--run") + 1]), **last)
        return code

    monkeypatch.setattr("metronorm.cli.main", training)
    monkeypatch.setattr(sys, "argv", ["recipes/some.py", *words])
    found = results.train(
        "recipes/some.py", ("fold",), lambda run, config: {"beside": config["width"]}
    )
    assert all("--publish" not in argv for argv in given)
    return found


def test_what_the_test_set_said_is_a_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--fold", "3", "--run", str(tmp_path / "run"), "--publish")
    assert call(monkeypatch, *words, test_accuracy=0.75, validation_accuracy=0.5) == 0
    (row,) = results.rows("some")
    info = read_run_info(tmp_path / "run")
    names = ("fold", "ticks", "learning_rate", "accuracy", "beside")
    assert {name: row[name] for name in names} == {
        "fold": 3,
        "ticks": 2,
        "learning_rate": 0.5,
        "accuracy": 0.75,
        "beside": 8,
    }
    assert row["command"] == "python recipes/some.py --fold 3"
    assert row["versions"] == info.versions
    assert row["minutes"] >= 0
    assert "validation_accuracy" not in row
    seconds = results.seconds(tmp_path / "run")
    assert seconds.items() <= row.items()
    phases = sum(value for name, value in seconds.items() if name != "tick_seconds")
    assert 0 < phases <= seconds["tick_seconds"] + 1e-6


def test_the_gradients_of_the_first_and_the_last_layer(tmp_path: Path) -> None:
    record(tmp_path / "without")
    assert results.gradients(tmp_path / "without") == {}
    with Clock(tmp_path / "run") as clock:
        for number in clock.ticks(range(3)):
            sizes = {"gradient.stem": 1.0 + number, "gradient.b": 9.0, "gradient.a.head": 5.0}
            sizes["gradient.b.norm"] = 7.0
            clock.log(loss=1.0, **(sizes if number else {}))
    assert results.gradients(tmp_path / "run") == {"gradient_first": 2.5, "gradient_last": 5.0}


def test_nothing_is_a_row_without_publish_or_after_a_failure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, "--run", str(tmp_path / "a"), test_accuracy=0.75) == 0
    failed = ("--publish", "--run", str(tmp_path / "b"))
    assert call(monkeypatch, *failed, code=143, test_accuracy=0.75) == 143
    assert results.rows("some") == []


def test_bad_input_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "--publish") == 2
    assert "some: what is published needs a directory; got no --run" in capsys.readouterr().err
    assert call(monkeypatch, "--publish", "--run", str(tmp_path / "run")) == 2
    assert "a training that has ended" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="has ended"):
        results.tested(tmp_path / "run")
    assert results.rows("some") == []
