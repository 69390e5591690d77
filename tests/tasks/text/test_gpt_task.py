"""The GPT on text: what it writes in a training, and a run that begins with another's weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.data.config import TokenizerKind
from metronorm.errors import ConfigError, DataError
from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.tasks.text import Config
from metronorm.tasks.text.sampling import load_run_tokenizer
from metronorm.train import train

from ...train.tiny import losses, tiny_config


def test_what_the_model_writes_is_kept(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=6, sample_every=3, sample_tokens=20)
    train(text.task, config, tmp_path / "run")
    samples = open_run(tmp_path / "run").samples()
    assert [(one.name, one.kind, one.tick) for one in samples] == [
        ("text", "text", 3),
        ("text", "text", 6),
    ]
    assert all(one.read().decode() for one in samples)


def begun(folder: Path, kind: TokenizerKind) -> Config:
    """The config of a run from the weights of `first`, on its words without an a, sorted."""
    first = tiny_config(folder)
    first = replace(first, text=replace(first.text, tokenizer=kind, vocab_size=280))
    train(text.task, first, folder / "first")
    documents = sorted((folder / "text").iterdir())
    words = " ".join(each.read_text() for each in documents).split()
    (folder / "other.txt").write_text(" ".join(sorted(word for word in words if "a" not in word)))
    # one of its own would be another tokenizer
    here = replace(first.text, data=(str(folder / "other.txt"),), tokenizer="char")
    return replace(first, text=here, init_from=str(folder / "first"), ticks=4)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_run_from_anothers_weights_has_its_tokens(tmp_path: Path, kind: TokenizerKind) -> None:
    config = begun(tmp_path, kind)
    train(text.task, config, tmp_path / "second")
    ours, theirs = (load_run_tokenizer(tmp_path / run) for run in ("second", "first"))
    assert ours.encode("abc fed").tolist() == theirs.encode("abc fed").tolist()
    assert ours.vocab_size == theirs.vocab_size
    assert losses(tmp_path / "second")[0][1] < losses(tmp_path / "first")[0][1] - 0.1
    shutil.rmtree(tmp_path / "first")  # which a resume needs no more
    train(text.task, replace(config, ticks=6), tmp_path / "second", resume=True)
    assert len(losses(tmp_path / "second")) == 6


def test_a_mixture_is_resumed_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=6, checkpoint_every=3)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": f"{'abc def ' * (number + 9)}"}) + "\n" for number in range(20))
    )
    sources = (*config.text.data, str(tmp_path / "rows.jsonl"))
    mixed = replace(config, text=replace(config.text, data=sources, weights=(3, 1)))
    train(text.task, mixed, tmp_path / "whole")
    whole = losses(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    train(text.task, mixed, tmp_path / "again", resume=True, from_tick=3)
    assert losses(tmp_path / "again") == whole
    other = replace(mixed, text=replace(mixed.text, weights=(1, 1)))
    train(text.task, other, tmp_path / "other")
    assert losses(tmp_path / "other") != whole
    with pytest.raises(ConfigError, match=r"weights: \[3.0, 1.0\] in the run"):
        train(text.task, replace(other, ticks=9), tmp_path / "whole", resume=True)


def test_another_tokenizer_than_that_of_the_first_run_is_refused(tmp_path: Path) -> None:
    config = begun(tmp_path, "char")
    other = tmp_path / "tokenizer.json"
    CharTokenizer("abc").save(other)
    config = replace(config, text=replace(config.text, tokenizer_file=str(other)))
    with pytest.raises(DataError, match=r"must be that of .*first.*json, of 4 tokens"):
        train(text.task, config, tmp_path / "second")


def test_a_character_that_the_first_run_has_not_is_named(tmp_path: Path) -> None:
    config = begun(tmp_path, "char")
    with open(tmp_path / "other.txt", "a") as file:
        file.write("\N{SNOWMAN}")
    with pytest.raises(DataError, match=r"U\+2603"):
        train(text.task, config, tmp_path / "second")


def test_a_first_run_must_have_its_own_tokenizer(tmp_path: Path) -> None:
    config = begun(tmp_path, "char")
    (tmp_path / "first" / "tokenizer.json").write_text('{"metronorm": "characters"}')
    with pytest.raises(DataError, match="a tokenizer must be a readable"):
        train(text.task, config, tmp_path / "second")
