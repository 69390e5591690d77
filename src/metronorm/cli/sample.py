"""`metronorm sample`: let a trained model write."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import parse
from metronorm.errors import ConfigError


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm sample`."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Directory of the run."""
    prompt: str = "\n"
    """What the text begins with."""
    tokens: int = 500
    """How many tokens to write."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only."""
    top_p: float | None = None
    """Draw among the likeliest tokens only that together reach this probability."""
    seed: int | None = None
    """The same seed writes the same text."""
    checkpoint: Literal["best", "last"] = "best"
    """The one with the lowest validation loss, or the newest."""


def main(argv: list[str]) -> int:
    """Stream text to standard output."""
    arguments = parse(Arguments, argv, command="sample", description="Let a trained model write.")
    prompt = _text(arguments.prompt)
    # A token is hundreds of small products. Threads that spin while they wait for each other take
    # a busy machine's cores from one another: with two threads 80 times slower than with one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from metronorm.train.sampling import write  # torch is loaded only now

    for piece in write(
        arguments.run,
        prompt=prompt,
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        best=arguments.checkpoint == "best",
    ):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _text(prompt: str) -> str:
    """The prompt as it was typed, in UTF-8; bytes that the locale lacks came as lone surrogates.

    Raises:
        ConfigError: bytes that are no UTF-8.
    """
    try:
        return prompt.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise ConfigError("--prompt must be UTF-8 text", got=ascii(prompt)) from None
