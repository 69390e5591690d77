"""Draws tokens from a GPT, one at a time, for one prompt or for several."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from metronorm.errors import ConfigError, MetronormError
from metronorm.models.gpt import GPT, KVCache

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

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
    drawn = sample_batch(
        model,
        [tokens],
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generators=[generator],
        cache=cache,
    )
    return (token for _, token in drawn)


def sample_batch(
    model: GPT,
    prompts: Sequence[Sequence[int] | Tensor],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generators: Sequence[torch.Generator | None] | None = None,
    cache: bool = True,
    done: Collection[int] = frozenset(),
) -> Iterator[tuple[int, int]]:
    """As `sample`, of several prompts at once: the model reads its weights once for all of them.

    Each prompt gets the tokens that it would get alone, to rounding: it sees no other, and has its
    own random numbers.

    Args:
        model: as of `sample`, as are the other arguments that are not here.
        prompts: at least one, of any lengths.
        max_tokens: number of tokens to draw for each prompt.
        temperature: as of `sample`.
        top_k: as of `sample`.
        top_p: as of `sample`.
        generators: one for each prompt; None: torch's own for all of them.
        cache: as of `sample`.
        done: the numbers of the prompts that need no more tokens; looked at before each step, so
            that the caller may add to it.

    Yields:
        The number of a prompt, and its next token. In each step all prompts get one, in order.

    Raises:
        ConfigError, MetronormError: as `sample`.
    """
    windows = [_checked_prompt(tokens, model.config.vocab_size) for tokens in prompts]
    check_draw(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens)
    sources = [None] * len(windows) if generators is None else [*generators]
    if not windows or len(sources) != len(windows):
        raise ConfigError(
            "each prompt needs its generator", got=f"{len(windows)} prompts, {len(sources)}"
        )

    def draw() -> Iterator[tuple[int, int]]:
        context = model.config.context
        rows = [*range(len(windows))]  # those of the batch
        shown = [window[-context:] for window in windows]
        kept: KVCache | None = None
        for _ in range(max_tokens):
            if done and any(row in done for row in rows):
                places = [place for place, row in enumerate(rows) if row not in done]
                rows, shown = [rows[place] for place in places], [shown[place] for place in places]
                if kept is not None and rows:
                    kept.keep(places)
            if not rows:
                return
            if any(len(window) > context for window in shown):
                kept = None
                shown = [
                    window[-max(1, context * 3 // 4) :] if len(window) > context else window
                    for window in shown
                ]
            elif kept is not None and kept.length == context:
                kept = None  # there were places before all that are left
            logits, kept = _next_logits(model, shown, kept, cache=cache)
            chances = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
            for row, window, chance in zip(rows, shown, chances, strict=True):
                generator = sources[row]
                if generator is not None:
                    chance = chance.to(generator.device)
                token = int(torch.multinomial(chance, 1, generator=generator))
                window.append(token)
                yield row, token

    return draw()


def probabilities(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """The probability of every token, in float32: temperature, then top-k, then top-p.

    Args:
        logits: (..., vocab_size), as are the probabilities.
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
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, best, 1.0)
    # Subtract the maximum first, and keep the temperature above 0 in float32: a tiny temperature
    # must neither overflow nor divide 0 by 0.
    temperature = max(temperature, torch.finfo(torch.float32).tiny)
    largest = logits.max(dim=-1, keepdim=True).values
    chances = ((logits - largest) / temperature).softmax(dim=-1)
    if top_k is None and top_p is None:  # to sort a large vocabulary takes a tenth of a step
        return chances
    ordered, order = chances.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[..., top_k:] = 0.0
    if top_p is not None:
        ordered = ordered / ordered.sum(dim=-1, keepdim=True)
        ordered[ordered.cumsum(dim=-1) - ordered >= top_p] = 0.0
    ordered = ordered / ordered.sum(dim=-1, keepdim=True)
    return torch.zeros_like(chances).scatter_(-1, order, ordered)


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
    model: GPT, windows: list[list[int]], kept: KVCache | None, *, cache: bool
) -> tuple[Tensor, KVCache | None]:
    """Logits after the windows, (batch, vocab_size), and the cache, which then holds all of them.

    Windows of different lengths end in the same place; what is before their beginning is hidden.
    """
    training = model.training
    if training:
        model.eval()
    try:
        device = model.tokens.weight.device
        longest = max(map(len, windows))
        padding = [longest - len(window) for window in windows]
        if kept is None and (cache or any(padding)):
            kept = KVCache(model.config, len(windows), device=device, dtype=_cache_dtype(model))
            kept.padding = torch.tensor(padding, device=device) if any(padding) else None
            new = [[0] * before + window for before, window in zip(padding, windows, strict=True)]
        else:
            new = windows if kept is None else [window[-1:] for window in windows]
        features = model.features(torch.tensor(new, device=device), cache=kept)
        return model.logits(features[:, -1]), kept if cache else None
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
