import logging
import os
from pathlib import Path

import pytest

from metronorm.cli import main
from metronorm.data.config import TextConfig
from metronorm.data.text import prepare

WORDS = "the clock ticks once for every update — and the norm keeps the scale\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02}.txt").write_text(f"Document {i}\n" + WORDS * (40 + i), "utf-8")
    return folder


def test_the_command_reports_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = folder.parent / "cache"
    (folder / "picture.png").write_bytes(b"")
    (folder / "empty.txt").write_bytes(b"")
    others = sorted(str(path) for path in folder.glob("0*.txt"))
    assert main(["prepare", "--data", *others, "--cache", str(folder.parent / "other")]) == 0
    out = capsys.readouterr().out
    assert "10 documents (10 .txt)\n" in out
    assert "left out" not in out
    command = ["prepare", "--data", str(folder), "--cache", str(cache), "--tokenizer", "char"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    second = capsys.readouterr().out
    dataset = prepare(TextConfig(data=(str(folder),), cache=cache))
    for line in (
        "12 documents (12 .txt)\n",
        "left out    files without a text suffix: 1, empty files: 1\n",
        f"{dataset.meta.train.tokens:,} tokens",
        dataset.meta.held_out[0],
        f"char, {dataset.tokenizer.vocab_size} tokens, 1.00 characters per token",
        f"built       {dataset.directory}",
    ):
        assert line in first
    assert second == first.replace("built ", "reused")


def test_what_is_left_out_is_counted(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    text = (folder / "00.txt").read_bytes()
    (folder / "copy.txt").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    (folder / "up").symlink_to(folder)
    (folder / "broken.txt").symlink_to("nothing")
    with caplog.at_level(logging.WARNING, "metronorm"):
        assert main(["prepare", "--data", str(folder), "--cache", str(folder.parent / "c")]) == 0
    counts = "broken links: 1, copies of other documents: 1"
    assert f"\nleft out    {counts}\n" in capsys.readouterr().out
    assert caplog.messages == [f"left out of the text: {counts}"]


def test_the_cache_is_listed_and_cleaned(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ["--cache", str(folder.parent / "cache")]
    assert main(["prepare", "--list", *cache]) == 0
    assert capsys.readouterr().out.startswith("no prepared texts in ")
    for seed in ("0", "1"):
        assert main(["prepare", "--data", str(folder), "--split-seed", seed, *cache]) == 0
    texts = folder.parent / "cache" / "text"
    (texts / "mine").mkdir()
    names = [path.name for path in texts.iterdir()]
    day = 86_400
    for number, name in enumerate(sorted(set(names) - {"mine"})):
        os.utime(texts / name / "meta.json", (0, 10 * day - number * 3 * day))
    monkeypatch.setattr("time.time", lambda: 10.0 * day + 120)
    capsys.readouterr()
    assert main(["prepare", "--list", *cache]) == 0
    listed = capsys.readouterr().out
    assert "2 texts, " in listed
    assert 0 < listed.find(" 2:00 ago ") < listed.find(" 3 days ago ")
    assert listed.count("\ncorpus-bpe-") == 2
    assert main(["prepare", "--clean", *cache]) == 2
    assert "no terminal to ask at; try: --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(["prepare", "--clean", *cache]) == 1
    assert len(list(texts.iterdir())) == 3
    assert main(["prepare", "--clean", "--yes", *cache]) == 0
    assert "removed: 2 texts" in capsys.readouterr().out
    assert [path.name for path in texts.iterdir()] == ["mine"]
    assert main(["prepare", "--list", "--clean", *cache]) == 2


@pytest.mark.parametrize("preset", ["quick", "gpt2"])
def test_training_finds_what_prepare_has_built(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    options = ["--preset", preset, "--data", str(folder), "--cache", str(tmp_path / "cache")]
    assert main(["prepare", *options]) == 0
    monkeypatch.setattr("metronorm.data.text.build", None)  # calling it would fail
    tiny = "--ticks 1 --model.layers 1 --model.width 32 --model.heads 2 --model.context 32 "
    tiny += "--batch-size 4 --micro-batches 1 --precision fp32 --allocator system --sample-every 0"
    assert main(["train", *options, *tiny.split(), "--run", str(tmp_path / "run")]) == 0


def test_names_cannot_control_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(100):
        (folder / f"\x1b[2J{i}.t\x1bxt").write_text(f"Document {i}\n" + WORDS, "utf-8")
    assert main(["prepare", "--data", f"{folder}/*", "--cache", str(folder.parent / "c")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2J" in out
