"""`metronorm sample`: writes texts with a trained model."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from metronorm.cli.arguments import RunPath, parse, utf8
from metronorm.errors import ConfigError
from metronorm.finetune.config import is_pretrained, is_tuned_run
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = """
    metronorm sample runs/shakespeare
    metronorm sample runs/shakespeare --prompt "To be" --tokens 200
    metronorm sample runs/shakespeare --temperature 0 --checkpoint last
    metronorm sample runs/shakespeare --prompt-file scene.txt --samples 4

One text is written to standard output as it is drawn. Several are drawn together, and each is
written, under its number, when it and those before it are complete."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm sample`."""

    run: RunPath
    """Directory of the run, or of a pretrained model."""
    prompt: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(metavar="TEXT", help_behavior_hint="(default: a line break)"),
    ] = ()
    """The beginning of the text. Given several times: of several texts."""
    prompt_file: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FILE")
    ] = ()
    """A file that holds a prompt, or - for standard input. May be given several times."""
    samples: int = 1
    """Number of texts to write for each prompt."""
    tokens: int = 500
    """Number of tokens to write after the prompt."""
    stop: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEXT")] = ()
    """A text ends before this one, if the model writes it. May be given several times."""
    temperature: float = 0.8
    """Divides the logits. Below 1 the text is more predictable; 0 always takes the most likely
    token."""
    top_k: int | None = None
    """Draw from this number of most likely tokens. None: from all tokens."""
    top_p: float | None = None
    """Draw from the most likely tokens that together reach this probability, above 0 and at most 1.
    None: from all tokens."""
    seed: int | None = None
    """Seed of the drawing: the same seed writes the same text; of several texts, each has a seed
    that is larger by 1 than that of the one before. None: another text every time."""
    checkpoint: Literal["best", "last"] = "best"
    """best: the checkpoint with the best evaluation; last: the newest one."""
    weights: Literal["trained", "ema", "last"] = "trained"
    """trained: the weights as they were; ema, last: an average of them, if the training kept it
    (--ema, --average-last)."""
    device: str = "auto"
    """The device that computes, such as cpu or cuda:1. auto: the accelerator, if there is one."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print each text as a line of JSON, with its prompt."""


def main(argv: list[str]) -> int:
    """Write texts to standard output: one as it is drawn, several one after the other."""
    arguments = parse(Arguments, argv, command="sample", description=DESCRIPTION)
    prompts = [utf8(prompt, "--prompt") for prompt in arguments.prompt]
    prompts += [_read(name) for name in arguments.prompt_file]
    prompts = prompts or ["\n"]
    stop = [utf8(text, "--stop") for text in arguments.stop]
    # A token is hundreds of small products. Threads that spin while they wait for each other take
    # a busy machine's cores from one another: with two threads 80 times slower than with one.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    of_pretrained = is_pretrained(arguments.run) or is_tuned_run(arguments.run)
    texts = (_of_pretrained if of_pretrained else _of_gpt)(arguments, prompts, stop)
    number = len(prompts) * arguments.samples
    if number == 1 and not arguments.json:
        for _, piece in texts:
            _write(piece)
        sys.stdout.write("\n")
        return 0
    whole = ["" for _ in range(number)]
    for at, piece in texts:
        whole[at] += piece
    for at, text in enumerate(whole):
        prompt = prompts[at // arguments.samples]
        if arguments.json:
            print(json.dumps({"prompt": prompt, "text": text[len(prompt) :]}, ensure_ascii=False))
        else:
            print(f"--- {at + 1} of {number} ---")
            _write(f"{text}\n")
    return 0


def _write(text: str) -> None:
    # a terminal takes some characters for commands
    shown = printable(text, multiline=True) if sys.stdout.isatty() else text
    sys.stdout.write(shown)
    sys.stdout.flush()


def _read(name: str) -> str:
    """The text in a file, or of standard input.

    Raises:
        ConfigError: it cannot be read, is empty, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = data.decode()
    except OSError as error:
        raise ConfigError(
            "--prompt-file must be readable", got=f"{name}: {error.strerror or error}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            "--prompt-file must be UTF-8 text", got=f"{name}: {error.reason} at {error.start}"
        ) from None
    if not text:
        raise ConfigError("--prompt-file must hold a prompt", got=f"{name}, which is empty")
    return text


def _of_gpt(arguments: Arguments, prompts: list[str], stop: list[str]) -> Iterator[tuple[int, str]]:
    from metronorm.tasks.text.sampling import generate_texts  # torch is loaded only now

    yield from generate_texts(
        arguments.run,
        prompts=prompts,
        samples=arguments.samples,
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        stop=stop,
        best=arguments.checkpoint == "best",
        average=_average(arguments),
        device=arguments.device,
    )


def _of_pretrained(
    arguments: Arguments, prompts: list[str], stop: list[str]
) -> Iterator[tuple[int, str]]:
    from metronorm.finetune.writing import load_writer
    from metronorm.models.decoding import StopText, check_samples, seeds_of
    from metronorm.models.sampling import generator_of

    check_samples(arguments.samples)
    seeds = seeds_of(arguments.seed, len(prompts) * arguments.samples)
    generators = [generator_of(seed) for seed in seeds]
    StopText(stop)
    best = arguments.checkpoint == "best"
    writer = load_writer(
        arguments.run, best=best, average=_average(arguments), device=arguments.device
    )
    for number, generator in enumerate(generators):
        prompt = prompts[number // arguments.samples]
        yield number, prompt
        ending = StopText(stop)
        for piece in writer.write(
            prompt,
            max_tokens=arguments.tokens,
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
            generator=generator,
        ):
            if known := ending.add(piece):
                yield number, known
            if ending.is_over:
                break
        if rest := ending.rest():
            yield number, rest


def _average(arguments: Arguments) -> str | None:
    return None if arguments.weights == "trained" else arguments.weights
