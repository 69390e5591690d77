"""A GPT that learns to write: text to windows of tokens, and the loss of the next token."""

from __future__ import annotations

import glob
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from tqdm import tqdm

from metronorm.checkpoints.checks import file_sha256
from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.data.mixture import Mixture
from metronorm.data.sampler import WindowSampler, validation_windows
from metronorm.data.text import prepare
from metronorm.data.tokenizer import stream_decode
from metronorm.data.tokenizer_file import load_tokenizer
from metronorm.errors import DataError
from metronorm.models.gpt import GPT
from metronorm.models.sampling import sample
from metronorm.tasks.text.memory import check_memory, check_model_memory
from metronorm.tasks.text.sampling import load_run_tokenizer
from metronorm.train.optimizers import groups_of
from metronorm.train.precision import choose_device
from metronorm.train.sharded import gathered
from metronorm.train.task import Hook, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from metronorm.data.config import TextConfig
    from metronorm.data.dataset import TextDataset
    from metronorm.tasks.text.config import Config
    from metronorm.train.task import Moment

Batch = tuple[Any, Any]
"""Inputs and targets, both int64 (batch, context)."""


def task(config: Config) -> Task:
    """The task of a config: its text is prepared, or taken from the cache.

    On a resume `config.data_id` is the SHA-256 of the tokens that the run began with. These are
    then taken from the cache, wherever their text is by now.

    Raises:
        DataError: text that cannot be used.
    """
    text = text_of(config)
    text.check_context(config.model.context)
    config = replace(config, model=replace(config.model, vocab_size=text.tokenizer.vocab_size))
    context = config.model.context
    return Task(
        model=lambda: _model(config),
        batches=_batches(text, config),
        loss=loss,
        count=count,
        measure=lambda model, batch: _measure(model, batch, text.characters_per_token),
        validation=lambda: validation_windows(
            text.validation,
            context,
            config.batch_size,
            max_tokens=config.evaluate_tokens or None,
        ),
        groups=lambda model, config: groups_of(model, config.optimizer, hidden_matrices(model)),
        hooks=[Hook(config.sample_every, _sampler(config, text), phase="sample")],
        save=lambda directory, kept: _save_tokenizer(directory, kept, text),
        data_id=text.sha256,
        unit="tokens",
        config=config,
    )


def _batches(text: TextDataset, config: Config) -> WindowSampler | Mixture:
    """Windows of the training text; of sources with weights, each its share."""
    context, size, seed = config.model.context, config.batch_size, config.seed
    if not config.text.weights:
        return WindowSampler(text.train, context, size, seed=seed)
    samplers = [
        WindowSampler(tokens, context, size, seed=seed + number)
        for number, tokens in enumerate(text.parts)
    ]
    return Mixture(samplers, config.text.weights)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """The cross entropy of the next token, in nats, summed over a batch."""
    inputs, targets = batch
    summed: Tensor = model(inputs, targets)
    return summed


def count(batch: Batch) -> int:
    """The number of tokens that the summed loss of a batch is over."""
    targets = batch[1]
    return int(targets.size if isinstance(targets, np.ndarray) else targets.numel())


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Weights of the linear layers inside a GPT: neither embeddings nor the output head."""
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "head"
    ]


def _measure(model: nn.Module, batch: Batch, characters_per_token: float) -> dict[str, Any]:
    summed = loss(model, batch)
    return {
        "loss": summed,
        "loss_per_character": (summed, count(batch) * characters_per_token),
    }


def text_of(config: Config) -> TextDataset:
    """The text of a config, prepared or from the cache; see `task`.

    Raises:
        DataError: text that cannot be used.
    """
    text, begun = config.text, Path(config.init_from)
    # A resumed run needs the other run no more, if its tokens are still in the cache.
    if config.init_from and (not config.data_id or (begun / "run.json").exists()):
        text = _with_tokenizer_of(begun, text)
    try:
        return prepare(text, sha256=config.data_id or None)
    except DataError:
        missing = [each for each in config.text.data if not _is_there(each)]
        if config.data_id and missing:
            raise DataError(
                "a resumed run must find its text",
                got=f"{missing[0]!r}, which matches nothing",
                fix="name with --data the place where it is now",
            ) from None
        raise


def _with_tokenizer_of(run: Path, text: TextConfig) -> TextConfig:
    """The text in the tokens of a run: its weights know no others.

    Raises:
        DataError: the text is to have the tokens of another file.
    """
    tokenizer, path = load_run_tokenizer(run), run / "tokenizer.json"
    if text.tokenizer_file and file_sha256(Path(text.tokenizer_file)) != file_sha256(path):
        other = load_tokenizer(Path(text.tokenizer_file))
        raise DataError(
            f"the tokenizer must be that of {run}, whose weights know no other: "
            f"{tokenizer.vocab_size:,} tokens",
            got=f"{text.tokenizer_file}, of {other.vocab_size:,} tokens",
            fix="leave --tokenizer-file out, or --init-from",
        )
    is_char = isinstance(tokenizer, CharTokenizer)
    return replace(text, tokenizer="char" if is_char else "bpe", tokenizer_file=str(path))


def _is_there(source: str) -> bool:
    return glob.has_magic(source) or Path(source).exists()


def _model(config: Config) -> GPT:
    if choose_device(config.device).type == "cpu":
        check_memory(config.model, config.batch_size)
    else:
        check_model_memory(config.model)  # it is made here and then moved there
    return GPT(config.model)


def _save_tokenizer(directory: Path, kept: Mapping[str, Any], text: TextDataset) -> dict[str, str]:
    """Write the tokenizer, so that a run can be sampled from without its text's cache.

    On resume the file stays if it is the one that the checkpoints were made with: another version
    of the library may write the same tokenizer in other bytes.
    """
    path = directory / "tokenizer.json"
    expected = kept.get("tokenizer")
    if expected is None or not path.exists() or file_sha256(path) != expected:
        text.tokenizer.save(path)
    return {"tokenizer": file_sha256(path)}


def _sampler(config: Config, text: TextDataset) -> Callable[[Moment], None]:
    """A hook that lets the model write, prints it and keeps it as a sample."""

    def write(moment: Moment) -> None:
        tokens = sample(
            cast("GPT", moment.model),
            [text.tokenizer.separator],
            max_tokens=config.sample_tokens,
            temperature=0.8,
            generator=torch.Generator().manual_seed(config.seed),
        )
        with gathered(moment.model):
            written = "".join(moment.until_signal(stream_decode(text.tokenizer, tokens)))
        if moment.interrupted() or moment.rank:
            return
        moment.clock.sample("text", written)
        tqdm.write(f"--- tick {moment.tick} ---\n{written.strip()}\n---", file=sys.stderr)

    return write
