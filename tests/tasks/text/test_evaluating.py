"""The held-out loss of a run: the probability of a text, summed by hand in float64."""

from __future__ import annotations

import gzip
import io
import json
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from metronorm.cli import main
from metronorm.data.text import prepare
from metronorm.errors import DataError
from metronorm.models.config import GPTConfig
from metronorm.models.gpt import GPT
from metronorm.tasks.text import task
from metronorm.tasks.text.evaluating import evaluate_run, summed_nats
from metronorm.tasks.text.sampling import load_model_and_tokenizer
from metronorm.train import train

from ...train.tiny import losses, tiny_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metronorm.data.config import TokenizerKind
    from metronorm.tasks.text import Config


def config_for(folder: Path, kind: TokenizerKind) -> Config:
    config = tiny_config(folder, ema=0.5, evaluate_tokens=0)
    return replace(config, text=replace(config.text, tokenizer=kind, vocab_size=280))


@pytest.fixture(scope="module", params=["char", "bpe"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp(request.param)
    train(task, config_for(folder, request.param), folder / "run")
    return folder / "run"


def by_hand(model: GPT, ids: Sequence[int], separator: int, context: int, stride: int) -> float:
    """Each token's log-probability, one after the other, in float64."""
    model = model.double()
    text = [separator, *ids]
    total = 0.0
    for at in range(1, len(text)):
        # `text[at - 1]` is the input of this target: the first window that has it, from its start
        window = max(0, math.ceil((at - context) / stride))
        seen = text[window * stride : at]
        assert len(seen) <= context
        with torch.no_grad():
            logits = model(torch.tensor([seen]))[0, -1]
        total -= float((logits - logits.logsumexp(0))[text[at]])
    return total


@pytest.mark.parametrize(("context", "stride"), [(16, 16), (16, 5), (12, 1)])
def test_the_loss_is_the_probability_of_every_token(
    run: Path, tmp_path: Path, context: int, stride: int
) -> None:
    is_bpe = "bpe" in str(run)
    documents = ["cab bed fade " * 3 + ("caf\u00e9 \U0001f40c" if is_bpe else ""), "head\r\nbag"]
    for number, text in enumerate(documents):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    found = evaluate_run(run, [str(tmp_path)], context=context, stride=stride)
    model, tokenizer = load_model_and_tokenizer(run)
    ids = []
    for text in documents:
        ids += [*tokenizer.encode(text.replace("\r\n", "\n")).tolist(), tokenizer.separator]
    assert found.tokens == len(ids) > 2 * context
    nats = by_hand(model, ids, tokenizer.separator, context, stride)
    assert found.nats == pytest.approx(nats, rel=1e-6)
    whole = "".join(documents).replace("\r\n", "\n") + ("" if is_bpe else "\n\n")
    assert (found.characters, found.bytes) == (len(whole), len(whole.encode()))
    assert found.loss == pytest.approx(nats / len(ids))
    assert found.perplexity == pytest.approx(math.exp(nats / len(ids)))
    assert found.bits_per_token == pytest.approx(nats / len(ids) / math.log(2))
    assert found.bits_per_character == pytest.approx(nats / len(whole) / math.log(2))
    assert found.bits_per_byte == pytest.approx(nats / len(whole.encode()) / math.log(2))
    assert (found.context, found.stride) == (context, stride)


def test_rows_are_evaluated_as_documents(run: Path, tmp_path: Path) -> None:
    texts = ["cab bed fade", "head bag", "\ufeffbad cafe\r\n"]
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "texts" / f"{number}.txt").write_bytes(text.encode())
    lines = [*(json.dumps({"text": text}) for text in texts), "torn", '{"text": " "}']
    packed = gzip.compress("\n".join(lines).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(texts[0].encode()))
    as_texts, as_rows = (
        evaluate_run(run, [str(tmp_path / name)]) for name in ("texts", "a.jsonl.gz")
    )
    assert (as_texts.nats, as_texts.tokens) == (as_rows.nats, as_rows.tokens)
    assert as_rows.text == "3 documents"
    (tmp_path / "a.jsonl.gz").write_bytes(packed[:-9])
    with pytest.raises(DataError, match="must be whole"):
        evaluate_run(run, [str(tmp_path / "a.jsonl.gz")])
    assert evaluate_run(run, [str(tmp_path / "b.txt.gz")]).text == "b.txt.gz"


def test_the_held_out_text_is_that_of_the_training(run: Path) -> None:
    config = config_for(run.parent, "bpe" if "bpe" in str(run) else "char")
    dataset = prepare(config.text)
    found = evaluate_run(run, cache=config.text.cache)
    assert found.tokens == dataset.meta.validation.tokens
    assert found.characters == dataset.meta.validation.characters
    measured = {tick: loss for tick, _, loss in losses(run) if loss is not None}
    # the training leaves out the first token, and those behind the last whole window
    best = min(measured.values())
    assert found.loss == pytest.approx(best, abs=0.1)
    assert found.checkpoint == f"tick-{min(measured, key=measured.__getitem__):08}"
    assert evaluate_run(run, cache=config.text.cache, best=False).checkpoint == "tick-00000030"
    average = evaluate_run(run, cache=config.text.cache, best=False, average="ema")
    assert average.nats != evaluate_run(run, cache=config.text.cache, best=False).nats


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 16, 17, 30])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_every_length_of_a_text_counts_each_token_once(size: int, stride: int) -> None:
    torch.manual_seed(size)
    model = GPT(GPTConfig(context=8, layers=1, heads=2, width=16, vocab_size=11))
    ids = np.random.default_rng(size).integers(0, 11, size)
    found = summed_nats(model, ids, 3, context=8, stride=stride)
    assert model.training
    model.eval()
    assert found == pytest.approx(by_hand(model, ids.tolist(), 3, 8, stride), rel=1e-6)


def test_a_large_vocabulary_is_read_without_its_logits() -> None:
    torch.manual_seed(0)
    config = GPTConfig(context=8, layers=1, heads=2, width=16, vocab_size=1 << 15)
    assert config.has_large_vocabulary
    model = GPT(config).eval()
    ids = np.arange(20) * 1000
    found = summed_nats(model, ids, 3, context=8, stride=5)
    assert found == pytest.approx(by_hand(model, ids.tolist(), 3, 8, 5), rel=1e-5)


def test_the_command_prints_the_figures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("cab bed fade head bag")
    arguments = ["evaluate", str(run), "--data", str(tmp_path / "other.txt"), "--stride", "4"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    found = evaluate_run(run, [str(tmp_path / "other.txt")], stride=4)
    assert f"{found.bits_per_byte:.4f}" in printed
    assert "12 to 16 (--stride 4)" in printed
    assert main([*arguments[:2], str(tmp_path / "other.txt"), "--stride=4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["nats"] == pytest.approx(found.nats)
    assert record["bits_per_character"] == pytest.approx(found.bits_per_character)
    assert record["text"] == "other.txt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stride", "17"], "stride must be from 1 to 16 tokens"),
        (["--context", "99"], "context must be from 1 to 16 tokens"),
        (["--stops", "3"], "--stops is for fine-tuned models"),
        (["--prompt-weight", "1"], "--prompt-weight is for rows"),
        (["--data", "nowhere.txt"], "which matches nothing"),
        (["--data", "empty"], "no text in"),
        (["--weights", "last"], "--average-last"),
        (["--device", "gpu9"], "device must be one of this machine's"),
    ],
)
def test_bad_input_is_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("cab")
    text = [] if options[0] == "--data" else ["a.txt"]
    assert main(["evaluate", str(run), *text, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_text_that_is_gone_or_another_is_not_evaluated(tmp_path: Path) -> None:
    config = replace(config_for(tmp_path, "char"), ticks=1, ema=0.0)
    train(task, config, tmp_path / "run")
    other = tmp_path / "other cache"
    (tmp_path / "text" / "0.txt").write_text("abcdefgh " * 99)
    with pytest.raises(DataError, match="must be as it was"):
        evaluate_run(tmp_path / "run", cache=other)
    (tmp_path / "text").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="in the cache, or where it was"):
        evaluate_run(tmp_path / "run", cache=other)
    assert evaluate_run(tmp_path / "run", cache=config.text.cache).tokens > 0


def test_the_column_of_rows_and_standard_input(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"words": "cab bed"}\n{"words": ""}\n')
    (tmp_path / "picture.png").write_bytes(b"")
    found = evaluate_run(run, [str(tmp_path)], column="words")
    (tmp_path / "a.txt").write_text("cab bed")
    assert found.nats == pytest.approx(evaluate_run(run, [str(tmp_path / "a.txt")]).nats)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"cab bed")))
    assert evaluate_run(run, ["-"]).nats == pytest.approx(found.nats)
    arguments = ["evaluate", str(run), "--data", str(tmp_path / "rows.jsonl")]
    assert main([*arguments, "--column", "words"]) == 0
    assert "left out of the text: without text: 1" in caplog.messages
    assert main(arguments) == 2
    assert "words" in capsys.readouterr().err


def test_characters_that_the_run_has_not_are_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cab \N{SNOWMAN}")
    if "bpe" in str(run):  # it has all bytes
        found = evaluate_run(run, [str(tmp_path / "a.txt")])
        assert (found.characters, found.bytes) == (5, 7)
    else:
        with pytest.raises(DataError, match=r"U\+2603"):
            evaluate_run(run, [str(tmp_path / "a.txt")])
