"""A conversation in the terminal: what is typed, what is shown, and how it ends."""

from __future__ import annotations

import io
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from metronorm.cli import main
from metronorm.finetune.pretrained import load
from metronorm.finetune.writing import Writer
from tests.finetune.pretrained_files import save

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose words would clear a terminal."""
    folder = tmp_path_factory.mktemp("chat") / "base"
    save(folder, "llama")
    words = folder / "tokenizer.json"
    words.write_text(words.read_text().replace('"w', r'"\u001b[2Jw'))
    return folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(base: Path, typed: io.StringIO, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", typed)
    return main(["chat", str(base), "--tokens", "4", "--seed", "1", *options])


def test_what_controls_a_terminal_is_shown(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(base, io.StringIO("a\n\x1b[31m b\n"), monkeypatch) == 0
    out = capsys.readouterr().out
    assert r"\x1b[2Jw" in out
    assert "\x1b" not in out
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["sample", str(base), "--prompt", "a", "--tokens", "4", "--seed", "1"]) == 0
    assert "\x1b" not in terminal.getvalue()


def test_what_is_sampled_into_a_file_is_as_it_is(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(base), "--prompt", "a", "--tokens", "4", "--seed", "1"]) == 0
    assert "\x1b[2Jw" in capsys.readouterr().out


def test_nothing_and_empty_lines_are_no_messages(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ("", "\n \n\n"):
        assert said(base, io.StringIO(typed), monkeypatch) == 0
        assert capsys.readouterr().out == ""


def test_a_message_that_fills_the_context(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "a " * 200 + "\nb\n"
    assert said(base, io.StringIO(typed), monkeypatch) == 2
    error = "must fit into the model's context of 64 tokens, and leave room for an answer; got 20"
    assert error in capsys.readouterr().err
    assert said(base, Terminal(typed), monkeypatch) == 0  # the next message is answered
    shown = capsys.readouterr()
    assert error in shown.err
    assert shown.out.strip()


def test_the_oldest_turns_make_room(base: Path) -> None:
    writer = Writer(load(base, "causal"))
    turns = [
        {"role": role, "content": " ".join([name] * 10)}
        for name in "abcdef"
        for role in ("user", "assistant")
    ]
    system = [{"role": "system", "content": "s"}]
    last = [{"role": "user", "content": "z"}]
    options = {"temperature": 0, "max_tokens": 12}
    whole = "".join(writer.answer([*system, *turns, *last], **options))
    # of 64 tokens 12 stay: for three turns of 13 there is room, and a turn is answered
    assert whole == "".join(writer.answer([*system, *turns[-2:], *last], **options))
    assert len(whole.split()) >= 1


def test_bytes_that_are_no_text(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8")
    assert said(base, typed, monkeypatch) == 2  # type: ignore[arg-type]
    assert "a message must be UTF-8 text; got" in capsys.readouterr().err
    assert said(base, io.StringIO("caf\udce9\n"), monkeypatch) == 2
    assert said(base, io.StringIO("a\n"), monkeypatch, "--system", "caf\udce9") == 2
    assert "--system must be UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "code"), [(Terminal("a\nb\n"), 0), (io.StringIO("a\n"), 130)])
def test_an_interrupt_ends_the_answer_at_a_terminal_and_else_the_command(
    base: Path, monkeypatch: pytest.MonkeyPatch, typed: io.StringIO, code: int
) -> None:
    class Interrupting(Terminal):
        pieces = 0

        def write(self, text: str) -> int:
            self.pieces += 1
            if self.pieces == 1:
                signal.raise_signal(signal.SIGINT)
            return super().write(text)

    shown = Interrupting()
    monkeypatch.setattr(sys, "stdout", shown)
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        assert said(base, typed, monkeypatch) == code
    finally:
        signal.signal(signal.SIGINT, heard)
    assert len(shown.getvalue().splitlines()) == (2 if code == 0 else 0)


def test_a_number_of_tokens_below_none(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(base, io.StringIO("a\n"), monkeypatch, "--tokens", "-1") == 2
