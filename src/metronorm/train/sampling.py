"""Text from a run: its model, loaded from a checkpoint, goes on from a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from metronorm.clock import read_run_info
from metronorm.data.tokenizer import stream_decode
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import CheckpointError, ConfigError
from metronorm.models.gpt import GPT
from metronorm.models.sampling import sample
from metronorm.train import checkpoint
from metronorm.train.plain import from_plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load_model(run: Path, *, best: bool = True) -> GPT:
    """The model of a run, in evaluation mode.

    Args:
        run: directory of the run.
        best: the checkpoint with the lowest validation loss, if one was evaluated and is whole;
            else the newest whole one.

    Raises:
        RunError: no run there.
        CheckpointError: no whole checkpoint.
    """
    read_run_info(run)
    folder = run / checkpoint.FOLDER
    found = None
    if best and (path := checkpoint.best_checkpoint(folder)) is not None:
        try:
            found = checkpoint.open_checkpoint(path)
        except CheckpointError:
            found = None
    found = found or checkpoint.newest_checkpoint(folder)
    model = GPT(from_plain(found.state["config"]).model)
    found.load_model(model)
    return model.eval()


def write(
    run: Path,
    *,
    prompt: str,
    max_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    best: bool = True,
) -> Iterator[str]:
    """The prompt and what the model adds to it, piece by piece.

    Raises:
        RunError, CheckpointError: as `load_model`.
        DataError: a prompt with characters that the run's tokenizer does not have.
        ConfigError: sampling options out of range.
    """
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise ConfigError("seed must be a whole number of 64 bits", got=repr(seed), fix="0")
    model = load_model(run, best=best)
    tokenizer = load_tokenizer(run / "tokenizer.json")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    ids = tokenizer.encode(prompt).tolist() or [tokenizer.separator]
    tokens = sample(
        model,
        ids,
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=generator,
    )
    yield prompt
    yield from stream_decode(tokenizer, tokens)
