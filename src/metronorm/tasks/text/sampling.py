"""Text from a run: its model, loaded from a checkpoint, goes on from prompts."""

from __future__ import annotations

import codecs
import shlex
from typing import TYPE_CHECKING

from metronorm.checkpoints.checkpoint import FOLDER
from metronorm.checkpoints.checks import file_sha256
from metronorm.checkpoints.folder import best_checkpoint, newest_checkpoint
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import ConfigError, DataError
from metronorm.models.decoding import StopText, check_samples, decoding_threads, seeds_of
from metronorm.models.gpt import GPT
from metronorm.models.sampling import generator_of, sample_batch
from metronorm.tasks.text.config import Config
from metronorm.tasks.text.memory import check_model_memory
from metronorm.train.config_changes import config_from_dict, run_config
from metronorm.train.precision import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.data.tokenizer import Tokenizer


def load_model(run: Path, *, best: bool = True, average: str | None = None) -> GPT:
    """The model of a run, in evaluation mode.

    Args:
        run: directory of the run.
        best: the checkpoint with the best evaluation, if one was evaluated and is whole;
            else the newest whole one.
        average: an average of the weights instead of the weights: "ema" or "last".

    Raises:
        RunError: no run there.
        CheckpointError: no whole checkpoint, one whose weights are not those of its config, or one
            without that average.
        OutOfMemoryError: a model that does not fit.
    """
    return model_of(find_checkpoint(run, best=best), average)


def load_model_and_tokenizer(
    run: Path, *, best: bool = True, average: str | None = None
) -> tuple[GPT, Tokenizer]:
    """The model of a run, in evaluation mode, and its tokenizer; arguments as `load_model`.

    Raises:
        RunError, CheckpointError, OutOfMemoryError: as `load_model`.
        DataError: a tokenizer that is damaged or another run's.
    """
    found = find_checkpoint(run, best=best)
    model = model_of(found, average)
    return model, tokenizer_of(run, found, model.config.vocab_size)


def load_run_tokenizer(run: Path) -> Tokenizer:
    """The tokenizer of a run, if it is the one that its weights were made with.

    Raises:
        ConfigError: a run of another task.
        RunError, CheckpointError: as `load_model`.
        DataError: a tokenizer that is damaged or another run's.
    """
    found = find_checkpoint(run)
    return tokenizer_of(run, found, config_of(found).model.vocab_size)


def find_checkpoint(run: Path, *, best: bool = True) -> Checkpoint:
    """The checkpoint of a run to load the model from; arguments and errors as `load_model`."""
    run_config(run)  # is it a run?
    folder = run / FOLDER
    return (best_checkpoint(folder) if best else None) or newest_checkpoint(folder)


def config_of(found: Checkpoint) -> Config:
    """The config that a checkpoint was made with.

    Raises:
        ConfigError: that of a run of another task.
    """
    made_with = found.state.get("config")
    if isinstance(made_with, dict) and "optimizer" in made_with and "text" not in made_with:
        raise ConfigError(
            "this is for runs of text",
            got=f"{found.path.parent.parent}, a run of another task",
        )
    return config_from_dict(made_with, Config)


def model_of(found: Checkpoint, average: str | None) -> GPT:
    """The model of a checkpoint; arguments and errors as `load_model`."""
    config = config_of(found).model
    found.check_parameters(config.parameters)
    check_model_memory(config)
    model = GPT(config)
    found.load_model(model, average=average)
    return model.eval()


def tokenizer_of(run: Path, found: Checkpoint, vocab_size: int) -> Tokenizer:
    """The run's tokenizer, if it is the one that the checkpoint was made with."""
    path = run / "tokenizer.json"
    try:
        tokenizer = load_tokenizer(path)
    except DataError as error:
        again = f"metronorm train --resume {shlex.quote(str(run))}, which writes it again"
        raise DataError(error.must, got=error.got, fix=again) from None
    # older checkpoints do not have its hash
    expected = found.state.get("tokenizer")
    if expected not in (None, file_sha256(path)) or tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"{path} must be the tokenizer that {found.path.name} was made with",
            got=f"another one, of {tokenizer.vocab_size} tokens",
            fix="put the run's own file back, or copy the run anew",
        )
    return tokenizer


def generate_text(
    run: Path,
    *,
    prompt: str,
    max_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    best: bool = True,
    average: str | None = None,
) -> Iterator[str]:
    """The prompt and what the model adds to it, piece by piece.

    Raises:
        RunError, CheckpointError: as `load_model`.
        DataError: a tokenizer that is damaged or another run's; a prompt with characters that the
            run's does not have.
        ConfigError: sampling options out of range.
    """
    texts = generate_texts(
        run,
        prompts=[prompt],
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        best=best,
        average=average,
    )
    return (piece for _, piece in texts)


def generate_texts(
    run: Path,
    *,
    prompts: Sequence[str],
    max_tokens: int,
    samples: int = 1,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: Sequence[str] = (),
    best: bool = True,
    average: str | None = None,
    device: str = "cpu",
) -> Iterator[tuple[int, str]]:
    """Several texts at once: of each the prompt and what the model adds to it, piece by piece.

    Args:
        run: directory of the run.
        prompts: the beginnings of the texts.
        max_tokens: tokens to write after each.
        samples: texts of each prompt.
        temperature: as of `metronorm.models.sample`.
        top_k: the same.
        top_p: the same.
        seed: of the first text; that of the next is larger by 1, so that each can be written alone.
        stop: a text ends before the first of these that the model writes.
        best: as of `load_model`.
        average: the same.
        device: that computes, or auto.

    Yields:
        The number of a text, and its next piece. The samples of a prompt follow each other.

    Raises:
        RunError, CheckpointError, DataError, ConfigError: as of `generate_text`.
    """
    check_samples(samples)
    generators = [generator_of(each) for each in seeds_of(seed, len(prompts) * samples)]
    place = choose_device(device)
    model, tokenizer = load_model_and_tokenizer(run, best=best, average=average)
    model = model.to(place)
    ids = [tokenizer.encode(prompt).tolist() or [tokenizer.separator] for prompt in prompts]
    done: set[int] = set()
    drawn = sample_batch(
        model,
        [each for each in ids for _ in range(samples)],
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generators=generators,
        done=done,
    )
    for number in range(len(generators)):
        yield number, prompts[number // samples]
    utf_8 = codecs.getincrementaldecoder("utf-8")
    texts = [(utf_8("replace"), StopText(stop)) for _ in generators]
    with decoding_threads(model):
        for number, token in drawn:
            decoder, ending = texts[number]
            if piece := ending.add(decoder.decode(tokenizer.decode_bytes([token]))):
                yield number, piece
            if ending.is_over:
                done.add(number)
    for number, (decoder, ending) in enumerate(texts):
        if piece := ending.add(decoder.decode(b"", final=True)) + ending.rest():
            yield number, piece
