"""Draws tokens from a GPT, one at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from metronorm.errors import ConfigError, MetronormError
from metronorm.models.gpt import GPT, KVCache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


def sample(
    model: GPT,
    tokens: Sequence[int] | Tensor,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> Iterator[int]:
    """Tokens that follow a prompt; each one is yielded as soon as it is drawn.

    When the context is full, its oldest quarter is dropped and the model reads the rest again. So
    the model always sees at least three quarters of a context, with or without the cache.

    Args:
        model: the model; after every token its mode (training or evaluation) is the same as before.
        tokens: the prompt, at least one token; only its last `context` tokens are read.
        max_tokens: number of tokens to draw.
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: draw among the k most likely tokens only.
        top_p: draw among the fewest most likely tokens that together reach this probability.
        generator: source of random numbers, on any device; by default torch's own.
        cache: keep keys and values between tokens; False computes all of them again (slow).

    Raises:
        ConfigError: an argument is out of range; raised at the call, not at the first token.
        MetronormError: the model's logits are not finite.
    """
    prompt = _checked_prompt(tokens, model.config.vocab_size)
    check_draw(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens)

    def draw() -> Iterator[int]:
        context = model.config.context
        window = prompt[-context:]
        kept: KVCache | None = None
        for _ in range(max_tokens):
            if len(window) > context:
                window, kept = window[-max(1, context * 3 // 4) :], None
            logits, kept = _next_logits(model, window, kept, cache=cache)
            chances = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
            if generator is not None:
                chances = chances.to(generator.device)
            token = int(torch.multinomial(chances, 1, generator=generator))
            window.append(token)
            yield token

    return draw()


def probabilities(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """The probability of every token, (vocab_size,) float32: temperature, then top-k, then top-p.

    Args:
        logits: (vocab_size,).
        temperature: divides the logits; 0 gives the most likely token the probability 1.
        top_k: exactly this number of tokens stay possible, or all if the vocabulary is smaller.
        top_p: the fewest most likely tokens stay possible that together reach this probability.

    Raises:
        ConfigError: an argument is out of range.
        MetronormError: the logits are not finite.
    """
    check_draw(temperature=temperature, top_k=top_k, top_p=top_p)
    logits = logits.float()
    if not bool(torch.isfinite(logits).all()):
        raise MetronormError(
            "the model's logits must be finite",
            got="NaN or infinity",
            fix="a checkpoint from before training diverged",
        )
    if temperature == 0:
        return torch.zeros_like(logits).scatter_(0, logits.argmax(keepdim=True), 1.0)
    # Subtract the maximum first, and keep the temperature above 0 in float32: a tiny temperature
    # must neither overflow nor divide 0 by 0.
    temperature = max(temperature, torch.finfo(torch.float32).tiny)
    chances = ((logits - logits.max()) / temperature).softmax(dim=-1)
    ordered, order = chances.sort(descending=True, stable=True)
    if top_k is not None:
        ordered[top_k:] = 0.0
    if top_p is not None:
        ordered = ordered / ordered.sum()
        ordered[ordered.cumsum(dim=-1) - ordered >= top_p] = 0.0
    return torch.zeros_like(chances).scatter_(0, order, ordered / ordered.sum())


def check_draw(
    *, temperature: float, top_k: int | None, top_p: float | None, max_tokens: int = 0
) -> None:
    """Check the options of `sample`.

    Raises:
        ConfigError: an option is out of range.
    """
    if max_tokens < 0:
        raise ConfigError("max_tokens must be at least 0", got=repr(max_tokens))
    if not math.isfinite(temperature) or temperature < 0:
        raise ConfigError(
            "temperature must be finite and at least 0", got=repr(temperature), fix="0.8"
        )
    if top_k is not None and top_k < 1:
        raise ConfigError("top_k must be at least 1", got=repr(top_k), fix="40, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(
            "top_p must be above 0 and at most 1", got=repr(top_p), fix="0.95, or None for all"
        )


def generator_of(seed: int | None) -> torch.Generator:
    """Random numbers to draw with; None: others every time.

    Raises:
        ConfigError: a seed that is no whole number of 64 bits.
    """
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    elif not -(2**63) <= seed < 2**64:
        raise ConfigError("seed must be a whole number of 64 bits", got=repr(seed), fix="0")
    else:
        generator.manual_seed(seed)
    return generator


@torch.no_grad()
def _next_logits(
    model: GPT, window: list[int], kept: KVCache | None, *, cache: bool
) -> tuple[Tensor, KVCache | None]:
    """Logits after the window, (vocab_size,), and the cache, which then holds the whole window."""
    training = model.training
    if training:
        model.eval()
    try:
        device = model.tokens.weight.device
        if cache and kept is None:
            kept = KVCache(model.config, device=device, dtype=_cache_dtype(model))
        seen = 0 if kept is None else kept.length
        tokens = torch.tensor([window[seen:]], device=device)  # (1, time)
        features = model.features(tokens, cache=kept)
        return model.logits(features[:, -1])[0], kept
    finally:
        if training:
            model.train()


def _cache_dtype(model: GPT) -> torch.dtype:
    device = model.tokens.weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return model.tokens.weight.dtype


def _checked_prompt(tokens: Sequence[int] | Tensor, vocab_size: int) -> list[int]:
    if isinstance(tokens, torch.Tensor) and tokens.dim() != 1:
        raise ConfigError(
            "a prompt must be one row of token ids", got=f"a tensor of shape {tuple(tokens.shape)}"
        )
    prompt = [int(token) for token in tokens]
    if not prompt:
        raise ConfigError("a prompt must hold at least one token", got="none", fix="a newline")
    outside = [token for token in prompt if not 0 <= token < vocab_size]
    if outside:
        raise ConfigError(
            f"token ids must be from 0 to {vocab_size - 1}",
            got=repr(outside[0]),
            fix="the tokenizer the model was trained with",
        )
    return prompt
