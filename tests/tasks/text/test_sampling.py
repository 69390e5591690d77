"""Texts from a run: several at once, each as it would be alone."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING

import pytest

from metronorm.cli import main
from metronorm.tasks.text import generate_text, task
from metronorm.tasks.text.sampling import generate_texts
from metronorm.train import train

from ...train.tiny import tiny_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("trained")
    train(task, tiny_config(folder), folder / "run")
    return folder / "run"


def sampled(capsys: pytest.CaptureFixture[str], run: Path, *options: str) -> str:
    assert main(["sample", str(run), "--tokens", "40", "--device", "cpu", *options]) == 0
    return capsys.readouterr().out


def test_several_texts_are_those_written_one_by_one(run: Path) -> None:
    whole = ["", "", "", ""]
    for number, piece in generate_texts(
        run, prompts=["a", "feed "], samples=2, max_tokens=40, seed=5
    ):
        whole[number] += piece
    alone = [
        "".join(generate_text(run, prompt=prompt, max_tokens=40, seed=5 + number))
        for number, prompt in enumerate(["a", "a", "feed ", "feed "])
    ]
    assert whole == alone
    assert len(set(whole)) == 4


def test_the_command_writes_one_text_after_the_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.txt").write_text("feed ")
    options = ["--prompt", "a", "--prompt-file", str(tmp_path / "b.txt"), "--seed", "5"]
    out = sampled(capsys, run, *options)
    first = sampled(capsys, run, "--prompt", "a", "--seed", "5")
    second = sampled(capsys, run, "--prompt", "feed ", "--seed", "6")
    assert out == f"--- 1 of 2 ---\n{first}--- 2 of 2 ---\n{second}"
    lines = sampled(capsys, run, *options, "--json").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"prompt": "a", "text": first[1:-1]},
        {"prompt": "feed ", "text": second[5:-1]},
    ]


def test_a_prompt_from_standard_input(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bed ")))
    assert sampled(capsys, run, "--prompt-file", "-", "--temperature", "0").startswith("bed ")


def test_a_text_ends_before_a_stop(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = sampled(capsys, run, "--prompt", "a", "--seed", "5")[:-1]
    stop = whole[10:13]
    assert stop not in whole[1:10]
    cut = whole[: 1 + whole[1:].index(stop)]
    assert sampled(capsys, run, "--prompt", "a", "--seed", "5", "--stop", stop) == cut + "\n"
    out = sampled(capsys, run, "--prompt", "a", "--samples", "2", "--seed", "5", "--stop", stop)
    other = sampled(capsys, run, "--prompt", "a", "--seed", "6", "--stop", stop)
    assert out == f"--- 1 of 2 ---\n{cut}\n--- 2 of 2 ---\n{other}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "0"], "samples must be a whole number of at least 1"),
        (["--stop", ""], "a text to stop at must not be empty"),
        (["--prompt-file", "nowhere"], "--prompt-file must be readable; got nowhere"),
        (["--prompt-file", "latin"], "--prompt-file must be UTF-8 text; got latin"),
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
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert main(["sample", str(run), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
