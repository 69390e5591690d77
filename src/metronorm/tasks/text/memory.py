"""What a GPT needs of memory at the least, compared with what there is before any is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metronorm.errors import OutOfMemoryError
from metronorm.memory import SMALLER_BATCH, available_bytes

if TYPE_CHECKING:
    from metronorm.models.config import GPTConfig


def check_memory(config: GPTConfig, batch_size: int, *, available: int | None = None) -> None:
    """Refuse a training that cannot fit, before the system kills the process for it.

    Counted is what a forward and backward pass must hold at the least: the weights and their
    gradient in fp32; for the micro-batch the logits and their gradient in fp32 (of a large
    vocabulary one chunk of them, see `metronorm.loss`), and eight activations of every block in
    bf16.

    Args:
        config: of the model.
        batch_size: sequences in a micro-batch.
        available: bytes of memory; None: what the system says is free (Linux; elsewhere unknown).

    Raises:
        OutOfMemoryError: the least is more than that.
    """
    if available is None:
        available = available_bytes()
    check_model_memory(config, copies=2, available=available)
    tokens = batch_size * config.context
    logits = 2 * 4 * tokens * config.vocab_size
    if config.has_large_vocabulary:
        from metronorm.loss.checks import CHUNK_BYTES  # here, because it loads torch

        logits = min(logits // 2, CHUNK_BYTES)
    least = logits + 8 * 2 * tokens * config.layers * config.width
    if available is not None and least > available:
        raise OutOfMemoryError(
            f"a micro-batch of {batch_size} x {config.context} tokens needs at least "
            f"{least / 2**30:,.1f} GiB of memory",
            got=f"{available / 2**30:,.1f} GiB free",
            fix=SMALLER_BATCH,
        )


def check_model_memory(config: GPTConfig, *, copies: int = 1, available: int | None = None) -> None:
    """Refuse a model that cannot fit, before any memory is taken for it.

    Counted are the weights in fp32, the tables of rotary positions while they are made, and keys
    and values of one context.

    Args:
        config: of the model.
        copies: of the weights.
        available: bytes of memory; None: what the system says is free (Linux; elsewhere unknown).

    Raises:
        OutOfMemoryError: the least is more than that.
    """
    if available is None:
        available = available_bytes()
    tables = config.context * config.head_size
    cache = 2 * config.layers * config.key_heads * tables
    least = 4 * copies * config.parameters + 4 * 8 * tables + 4 * cache
    if available is not None and least > available:
        raise OutOfMemoryError(
            f"a model of {config.parameters:,} parameters needs at least "
            f"{least / 2**30:,.1f} GiB of memory",
            got=f"{available / 2**30:,.1f} GiB free",
            fix="a smaller --model.width, --model.layers or --model.context",
        )
