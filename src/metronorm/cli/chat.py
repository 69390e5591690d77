"""`metronorm chat`: a conversation in the terminal with a fine-tuned or a pretrained model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from metronorm.cli.arguments import parse, utf8
from metronorm.errors import ConfigError, DataError
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = """
    metronorm chat runs/chats-lora
    metronorm chat MODEL --system "Answer in one word."
    metronorm chat runs/chats-lora --temperature 0 < questions.txt

Each line is a message; the answer is written as it is drawn. An empty line begins a new
conversation, Ctrl-C ends an answer, and Ctrl-D all. What a terminal would take for a command is
shown as it is. Where a conversation fills the model's context, its oldest turns are left out."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm chat`."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """Directory of a fine-tuned run, of a pretrained model, or a GGUF file."""
    system: str = ""
    """A message of the system before the conversation."""
    tokens: int = 256
    """Most tokens of an answer."""
    temperature: float = 0.7
    """Divides the logits; 0 always takes the most likely token."""
    top_p: float | None = 0.95
    """Draw from the most likely tokens that together reach this probability. None: from all."""
    seed: int | None = None
    """Seed of the drawing. None: other answers every time."""
    checkpoint: Literal["best", "last"] = "best"
    """Of a run: the checkpoint with the best evaluation, or the newest."""


def main(argv: list[str]) -> int:
    """Answer the lines of standard input."""
    arguments = parse(Arguments, argv, command="chat", description=DESCRIPTION)
    system = utf8(arguments.system, "--system")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see `metronorm sample`
    from metronorm.finetune.writing import load_writer  # torch is loaded only now
    from metronorm.models.sampling import generator_of

    writer = load_writer(arguments.model, best=arguments.checkpoint == "best")
    generator = generator_of(arguments.seed)
    begin = [{"role": "system", "content": system}] if system else []
    messages = list(begin)
    for line in _lines():
        if not line:
            messages = list(begin)
            continue
        messages.append({"role": "user", "content": line})
        said = ""
        try:
            for piece in writer.answer(
                messages,
                max_tokens=arguments.tokens,
                temperature=arguments.temperature,
                top_p=arguments.top_p,
                generator=generator,
            ):
                said += piece
                sys.stdout.write(printable(piece, multiline=True))
                sys.stdout.flush()
        except DataError as error:
            if not sys.stdin.isatty():
                raise
            print(f"metronorm chat: {printable(str(error))}", file=sys.stderr)
            messages.pop()
            continue
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
        sys.stdout.write("\n")
        messages.append({"role": "assistant", "content": said})
    return 0


def _lines() -> Iterator[str]:
    """What the user writes, line by line, after a sign on a terminal."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            print("> ", end="", file=sys.stderr, flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise ConfigError("a message must be UTF-8 text", got=ascii(error.object)) from None
        if not line:
            return
        yield utf8(line.strip(), "a message")
