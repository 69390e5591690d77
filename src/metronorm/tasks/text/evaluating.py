"""The held-out loss of a run of text: every token of a text is a target, exactly once.

The text begins after a separator, as every document of the training did, and is read in windows:

| `stride` | a window begins | its targets that count | a target sees |
| --- | --- | --- | --- |
| that of a whole context | where the one before ended | all | from 1 token to a context |
| S, fewer | S tokens after the one before | those that the one before did not have | `context` - S tokens or more |

The logits are computed in float32, also of a run in lower precision; sums over batches are float64.
"""  # noqa: E501

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from metronorm.data.char_tokenizer import CharTokenizer
from metronorm.data.config import TextConfig
from metronorm.data.corpus import find_documents
from metronorm.data.document_texts import read_documents
from metronorm.data.standard_input import kept_stdin
from metronorm.errors import ConfigError, DataError
from metronorm.loss import linear_cross_entropy
from metronorm.scalars import is_integer
from metronorm.tasks.text.config import without_cache
from metronorm.tasks.text.gpt_task import text_of
from metronorm.tasks.text.sampling import config_of, find_checkpoint, model_of, tokenizer_of
from metronorm.train.evaluate import evaluating
from metronorm.train.precision import choose_device
from metronorm.train.resuming import data_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.data.tokenizer import Tokenizer
    from metronorm.models.gpt import GPT

_BATCH_TOKENS = 1 << 14  # read at once

_log = logging.getLogger("metronorm")


@dataclass(frozen=True)
class HeldOut:
    """How well a model foretells a text; with `LN2 = log(2)`, and `nats` the sum of all losses.

    | property | is |
    | --- | --- |
    | `loss` | `nats / tokens` |
    | `perplexity` | `exp(loss)` |
    | `bits_per_token`, `..._character`, `..._byte` | `nats / LN2` over the number of each |

    Attributes:
        text: what was read, in words.
        checkpoint: the name of the checkpoint.
        nats: the negative log-probability of the text.
        tokens: of the text, with those that end documents.
        characters: of the text. Line feeds that a tokenizer of characters puts behind documents
            count; the separator tokens of BPE have none.
        bytes: of the text in UTF-8, counted alike.
        context: most tokens that a target sees.
        stride: tokens from the beginning of a window to that of the next.
    """

    text: str
    checkpoint: str
    nats: float
    tokens: int
    characters: int
    bytes: int
    context: int
    stride: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Of a token; infinite where a float cannot hold it."""
        return math.exp(self.loss) if self.loss < 709 else math.inf

    @property
    def bits_per_token(self) -> float:
        """Bits per token."""
        return self.loss / math.log(2)

    @property
    def bits_per_character(self) -> float:
        """Bits per character."""
        return self.nats / math.log(2) / self.characters

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8."""
        return self.nats / math.log(2) / self.bytes


def evaluate_run(
    run: Path,
    data: Sequence[str] = (),
    *,
    context: int = 0,
    stride: int = 0,
    best: bool = True,
    average: str | None = None,
    device: str = "auto",
    cache: Path | None = None,
    column: str | None = None,
) -> HeldOut:
    """Evaluate the model of a run on a text.

    Args:
        run: directory of a run of text.
        data: files, folders or globs, of texts or rows as in training; all of it is read in the
            tokens of the run. Nothing: the text that the run held out.
        context: most tokens that a target sees; 0: the context of the model.
        stride: see the table of this module; 0: the context.
        best: as of `load_model`.
        average: as of `load_model`.
        device: that computes.
        cache: where the run's text may be prepared; None: the default.
        column: of the text, in files of rows; None: as in the run.

    Raises:
        ConfigError: a run of another task, or a context, a stride or a device that cannot be.
        DataError: text that is not there, or that the run's tokenizer cannot encode.
        RunError, CheckpointError, OutOfMemoryError: as `load_model`.
    """
    found = find_checkpoint(run, best=best)
    config = config_of(found).model
    context = _checked("context", context, config.context)
    stride = _checked("stride", stride, context)
    tokenizer = tokenizer_of(run, found, config.vocab_size)
    if data:
        wanted = config_of(found).text.column if column is None else column
        ids, text = _read(data, wanted, tokenizer)
    else:
        ids, text = _held_out(run, found, cache)
    model = model_of(found, average).float().to(choose_device(device))
    sizes = _sizes(ids, tokenizer)
    return HeldOut(
        text=text,
        checkpoint=found.path.name,
        nats=summed_nats(model, ids, tokenizer.separator, context=context, stride=stride),
        tokens=len(ids),
        characters=sizes.characters,
        bytes=sizes.bytes,
        context=context,
        stride=stride,
    )


@torch.no_grad()
def summed_nats(
    model: GPT, ids: NDArray[Any], separator: int, *, context: int, stride: int
) -> float:
    """The negative log-probability of all tokens; see the table of this module.

    Args:
        model: in any mode, which it keeps.
        ids: token ids (tokens,).
        separator: the token before the first one.
        context: length of a window.
        stride: from 1 to `context`.
    """
    device = model.tokens.weight.device
    total = 0.0
    with evaluating(model):
        for inputs, targets in _windows(ids, separator, context, stride):
            features = model.features(torch.from_numpy(inputs).to(device))
            counted = features[:, -targets.shape[1] :]  # (batch, counted, width)
            total += _nats(model, counted, torch.from_numpy(targets).to(device))
    return total


def _nats(model: GPT, features: Tensor, targets: Tensor) -> float:
    if model.config.has_large_vocabulary:
        weight = (model.head or model.tokens).weight
        return float(linear_cross_entropy(features.contiguous(), weight, targets.contiguous()))
    logits = model.logits(features).flatten(0, 1)
    losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return float(losses.cpu().double().sum())  # (some devices have no float64)


def _windows(
    ids: NDArray[Any], separator: int, context: int, stride: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Inputs (batch, time), and the targets of the last of them, (batch, counted)."""
    size = len(ids)

    def batch(starts: range, time: int, counted: int) -> tuple[Any, Any]:
        inputs = np.empty((len(starts), time), dtype=np.int64)
        targets = np.empty((len(starts), counted), dtype=np.int64)
        for row, start in enumerate(starts):
            inputs[row, 0] = separator if start == 0 else ids[start - 1]
            inputs[row, 1:] = ids[start : start + time - 1]
            targets[row] = ids[start + time - counted : start + time]
        return inputs, targets

    first = min(context, size)
    yield batch(range(1), first, first)
    # the windows that are whole, then the last one
    begins = range(stride, size - context + 1, stride)
    at_once = max(1, _BATCH_TOKENS // context)
    for at in range(0, len(begins), at_once):
        yield batch(begins[at : at + at_once], context, stride)
    done = first + stride * len(begins)
    if done < size:
        start = stride * (len(begins) + 1)
        yield batch(range(start, start + 1), size - start, size - done)


def _read(data: Sequence[str], column: str, tokenizer: Tokenizer) -> tuple[NDArray[Any], str]:
    """The tokens of a text, read as `metronorm prepare` reads it, and its name; copies stay."""
    documents = 0
    with tempfile.TemporaryDirectory() as scratch:
        config = TextConfig(data=tuple(data), column=column)
        with kept_stdin(config, Path(scratch)) as stdin:
            corpus = find_documents(config.data, column=column, stdin=stdin)

            def pieces() -> Iterator[str | None]:
                nonlocal documents
                for piece in read_documents(corpus.documents, column):
                    documents += piece is None
                    yield piece

            parts = [*tokenizer.encode_stream(pieces())]
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
    if len(ids) == documents:
        raise DataError("an evaluation needs some text", got=f"none in {', '.join(data)}")
    if corpus.left_out:
        reasons = (f"{reason}: {number:,}" for reason, number in corpus.left_out.items())
        _log.warning("left out of the text: %s", ", ".join(reasons))
    return ids, f"{documents:,} documents" if documents > 1 else corpus.documents[0].name


def _held_out(run: Path, found: Checkpoint, cache: Path | None) -> tuple[NDArray[Any], str]:
    """The tokens that a run held out, and their name."""
    config, data_id = without_cache(config_of(found)), data_id_of(found) or ""
    text = replace(config.text, cache=cache)
    try:
        dataset = text_of(replace(config, text=text, data_id=data_id))
        is_same = not data_id or dataset.sha256 == data_id
    except DataError as error:
        raise DataError(
            "the text that a run held out must be in the cache, or where it was",
            got=error.got,
            fix="name a text: metronorm evaluate RUN DATA",
        ) from None
    if not is_same:
        raise DataError(
            "the text that a run held out must be as it was",
            got=f"another text where {run} had its own",
            fix="name a text: metronorm evaluate RUN DATA",
        )
    named = dataset.meta.held_out
    what = named[0] if len(named) == 1 else f"{len(named):,} documents"
    return dataset.validation, f"{what} that the run held out"


class _Sizes(NamedTuple):
    characters: int
    bytes: int


def _sizes(ids: NDArray[Any], tokenizer: Tokenizer) -> _Sizes:
    """What the tokens are in characters and in bytes: each byte that begins a character counts."""
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    if not isinstance(tokenizer, CharTokenizer):
        counts[tokenizer.separator] = 0
    characters = bytes_ = 0
    for token in np.flatnonzero(counts).tolist():
        spelled = tokenizer.decode_bytes([token])
        bytes_ += int(counts[token]) * len(spelled)
        characters += int(counts[token]) * sum(byte & 0xC0 != 0x80 for byte in spelled)
    return _Sizes(characters, bytes_)


def _checked(name: str, value: int, most: int) -> int:
    if not is_integer(value) or not 0 <= value <= most:
        raise ConfigError(
            f"{name} must be from 1 to {most} tokens, or 0 for {most}", got=repr(value)
        )
    return value or most
