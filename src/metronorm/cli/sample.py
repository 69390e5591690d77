"""`metronorm sample`: writes text with a trained model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from metronorm.cli.arguments import RunPath, parse, utf8
from metronorm.finetune.config import is_tuned_run
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DESCRIPTION = """
    metronorm sample runs/shakespeare
    metronorm sample runs/shakespeare --prompt "To be" --tokens 200
    metronorm sample runs/shakespeare --temperature 0 --checkpoint last

The text is written to standard output as it is drawn."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm sample`."""

    run: RunPath
    """Directory of the run, or of a pretrained model."""
    prompt: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: a line break)")] = "\n"
    """The beginning of the text."""
    tokens: int = 500
    """Number of tokens to write after the prompt."""
    temperature: float = 0.8
    """Divides the logits. Below 1 the text is more predictable; 0 always takes the most likely
    token."""
    top_k: int | None = None
    """Draw from this number of most likely tokens. None: from all tokens."""
    top_p: float | None = None
    """Draw from the most likely tokens that together reach this probability, above 0 and at most 1.
    None: from all tokens."""
    seed: int | None = None
    """Seed of the drawing: the same seed writes the same text. None: another text every time."""
    checkpoint: Literal["best", "last"] = "best"
    """best: the checkpoint with the best evaluation; last: the newest one."""
    weights: Literal["trained", "ema", "last"] = "trained"
    """trained: the weights as they were; ema, last: an average of them, if the training kept it
    (--ema, --average-last)."""


def main(argv: list[str]) -> int:
    """Write text to standard output, token by token."""
    arguments = parse(Arguments, argv, command="sample", description=DESCRIPTION)
    prompt = utf8(arguments.prompt, "--prompt")
    # A token is hundreds of small products. Threads that spin while they wait for each other take
    # a busy machine's cores from one another: with two threads 80 times slower than with one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if _is_pretrained(arguments.run) or is_tuned_run(arguments.run):
        pieces = _of_pretrained(arguments, prompt)
    else:
        pieces = _of_gpt(arguments, prompt)
    to_terminal = sys.stdout.isatty()  # which takes some characters for commands
    for piece in pieces:
        sys.stdout.write(printable(piece, multiline=True) if to_terminal else piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _is_pretrained(path: Path) -> bool:
    """Whether there is a model's directory or file in this place, and no run."""
    if (path / "run.json").exists():
        return False
    return path.suffix == ".gguf" or (path / "config.json").exists() or any(path.glob("*.gguf"))


def _of_gpt(arguments: Arguments, prompt: str) -> Iterator[str]:
    from metronorm.tasks.text import generate_text  # torch is loaded only now

    yield from generate_text(
        arguments.run,
        prompt=prompt,
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        best=arguments.checkpoint == "best",
        average=_average(arguments),
    )


def _of_pretrained(arguments: Arguments, prompt: str) -> Iterator[str]:
    from metronorm.finetune.writing import load_writer
    from metronorm.models.sampling import generator_of

    best = arguments.checkpoint == "best"
    writer = load_writer(arguments.run, best=best, average=_average(arguments))
    yield prompt
    yield from writer.write(
        prompt,
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        generator=generator_of(arguments.seed),
    )


def _average(arguments: Arguments) -> str | None:
    return None if arguments.weights == "trained" else arguments.weights
