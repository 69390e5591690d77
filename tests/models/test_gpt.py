"""GPT beside the same equations in float64 numpy; its shapes, gradients, cache and errors."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.errors import ConfigError
from metronorm.models import PRESETS, preset
from metronorm.models.config import GPTConfig
from metronorm.models.gpt import GPT, KVCache, attend

Array = np.ndarray[Any, np.dtype[Any]]

TINY = GPTConfig(vocab_size=13, context=10, layers=2, heads=4, width=24)
CHOICES: dict[str, list[Any]] = {
    "norm": ["layer", "rms"],
    "mlp": ["gelu", "gelu_tanh", "swiglu"],
    "positions": ["learned", "rotary"],
    "kv_heads": [None, 2, 1],
    "tie_embeddings": [True, False],
    "bias": [True, False],
}
VARIANTS = [
    dataclasses.replace(TINY, **dict(zip(CHOICES, values, strict=True)))
    for values in itertools.product(*CHOICES.values())
]


def name_of(config: GPTConfig) -> str:
    changed = (config.norm, config.mlp, config.positions, f"kv{config.kv_heads}")
    return "-".join((*changed, "tied" * config.tie_embeddings, "bias" * config.bias))


def build(config: GPTConfig, seed: int = 0) -> GPT:
    """Weights ten times as large as usual, so that every term of the equations matters."""
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2 + (weight.dim() == 1) * 0.7)
    return model


def reference_logits(config: GPTConfig, weights: dict[str, Array], tokens: Array) -> Array:
    """The forward pass in float64, one sequence and one head at a time."""
    return np.stack([_reference_row(config, weights, row) for row in tokens])


def _reference_row(config: GPTConfig, w: dict[str, Array], tokens: Array) -> Array:
    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(1))

    def norm(x: Array, name: str) -> Array:
        if config.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + (1e-5 if config.norm == "layer" else 1e-6))
        return x * w[f"{name}.weight"] + w.get(f"{name}.bias", np.zeros(1))

    def turn(x: Array) -> Array:
        if config.positions == "learned":
            return x
        half = size // 2
        speed = 10_000.0 ** (-np.arange(half) / half)
        wave = np.exp(1j * np.arange(len(x))[:, None] * speed)
        pairs = (x[:, :half] + 1j * x[:, half:]) * wave
        return np.concatenate((pairs.real, pairs.imag), axis=1)

    size, time = config.width // config.heads, len(tokens)
    kv_heads = config.kv_heads or config.heads
    x = w["tokens.weight"][tokens]
    if config.positions == "learned":
        x = x + w["positions.weight"][:time]
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        qkv = linear(norm(x, f"{block}.attention_norm"), f"{block}.attention.qkv")
        columns = np.split(qkv, config.heads + 2 * kv_heads, axis=1)
        mixed = []
        for head in range(config.heads):
            shared = head * kv_heads // config.heads
            query, key = turn(columns[head]), turn(columns[config.heads + shared])
            scores = query @ key.T / math.sqrt(size)
            scores[np.triu_indices(time, 1)] = -np.inf
            chances = np.exp(scores - scores.max(-1, keepdims=True))
            chances /= chances.sum(-1, keepdims=True)
            mixed.append(chances @ columns[config.heads + kv_heads + shared])
        x = x + linear(np.concatenate(mixed, axis=1), f"{block}.attention.out")
        hidden = linear(norm(x, f"{block}.mlp_norm"), f"{block}.mlp.up")
        if config.mlp == "swiglu":
            gate, value = np.split(hidden, 2, axis=1)
            hidden = gate / (1 + np.exp(-gate)) * value
        elif config.mlp == "gelu":
            hidden = hidden / 2 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        else:
            cubic = math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)
            hidden = hidden / 2 * (1 + np.tanh(cubic))
        x = x + linear(hidden, f"{block}.mlp.out")
    return norm(x, "norm") @ w["tokens.weight" if config.tie_embeddings else "head.weight"].T


def arrays(model: GPT) -> dict[str, Array]:
    return {name: weight.double().numpy() for name, weight in model.state_dict().items()}


def some_tokens(config: GPTConfig, batch: int = 2, time: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, time or config.context)
    return torch.randint(config.vocab_size, shape, generator=generator)


@pytest.mark.parametrize("config", VARIANTS, ids=name_of)
def test_logits_and_loss_equal_the_equations(config: GPTConfig) -> None:
    model, tokens = build(config), some_tokens(config)
    want = reference_logits(config, arrays(model), tokens.numpy())
    np.testing.assert_allclose(model(tokens).detach().numpy(), want, rtol=1e-4, atol=1e-4)

    targets = tokens.roll(-1, dims=1)
    targets[0, 3] = -100  # is not counted
    loss = model(tokens, targets)
    logs = want - np.log(np.exp(want).sum(-1, keepdims=True))
    picked = np.take_along_axis(logs, targets.clamp(min=0).numpy()[..., None], -1)[..., 0]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-picked[targets.numpy() >= 0].sum(), rel=1e-5)

    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("config", VARIANTS[::5], ids=name_of)
def test_gradients_equal_finite_differences(config: GPTConfig) -> None:
    config = dataclasses.replace(config, context=5, layers=1)
    model, tokens = build(config), some_tokens(config, batch=1)
    targets = tokens.roll(-1, dims=1)
    model(tokens, targets).backward()
    weights = arrays(model)

    def loss() -> float:
        logits = reference_logits(config, weights, tokens.numpy())
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -float(np.take_along_axis(logs, targets.numpy()[..., None], -1).sum())

    for name, weight in model.named_parameters():
        direction = np.random.default_rng(0).standard_normal(tuple(weight.shape))
        centre, step = weights[name], 1e-6
        weights[name] = centre + step * direction
        above = loss()
        weights[name] = centre - step * direction
        slope = (above - loss()) / (2 * step)
        weights[name] = centre
        assert weight.grad is not None
        got = float((weight.grad.double().numpy() * direction).sum())
        assert got == pytest.approx(slope, rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize("config", VARIANTS[::7], ids=name_of)
def test_reading_in_pieces_through_the_cache_changes_nothing(config: GPTConfig) -> None:
    model, tokens = build(config), some_tokens(config)
    whole = model(tokens)
    cache = KVCache(config, batch=2)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in tokens.split([4, 1, 3, 2], dim=1)]
    assert cache.length == config.context
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_later_tokens_never_reach_earlier_logits() -> None:
    model, tokens = build(TINY), some_tokens(TINY, batch=1)
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % TINY.vocab_size
    before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:6], after[:6])
    assert not torch.allclose(before[6:], after[6:])


@pytest.mark.parametrize("config", VARIANTS[::11], ids=name_of)
def test_under_bf16_autocast_loss_and_gradients_stay_close(config: GPTConfig) -> None:
    torch.manual_seed(0)
    model, tokens = GPT(config), some_tokens(config)
    exact = model(tokens, tokens.roll(-1, 1))
    exact.backward()
    want = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, tokens.roll(-1, 1))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        error = (weight.grad - want[name]).norm() / want[name].norm()
        assert error < 0.05, name


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("length", [7, 12])
def test_attention_in_bf16_with_gradients_equals_the_equation(key_heads: int, length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    exact, rounded = [], []
    for heads, time in ((4, 7), (key_heads, length), (key_heads, length)):
        values = torch.randn(2, heads, time, 8, generator=generator).bfloat16()
        exact.append(values.double().requires_grad_())
        rounded.append(values.requires_grad_())
    q, k, v = exact[0], *(x.repeat_interleave(4 // key_heads, dim=1) for x in exact[1:])
    scores = q @ k.mT / math.sqrt(8)
    hidden = torch.ones(7, length, dtype=torch.bool).triu(length - 7 + 1)
    want = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
    got = attend(*rounded)
    slope = torch.randn(want.shape, generator=generator)
    want.backward(slope.double())
    got.backward(slope.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), want, rtol=0.02, atol=0.02)
    for a, b in zip(rounded, exact, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert (a.grad.double() - b.grad).norm() < 0.01 * b.grad.norm()


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(TINY, dropout=0.5))
    tokens = some_tokens(TINY)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_new_weights_have_the_documented_deviation_and_predict_evenly() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(preset("small"), layers=2, vocab_size=500)
    model = GPT(config)
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for name, weight in model.named_parameters():
        if name.endswith(".out.weight"):
            assert weight.std().item() == pytest.approx(0.02 / math.sqrt(4), rel=0.02), name
    tokens = some_tokens(config, time=32)
    mean = model(tokens, tokens.roll(-1, 1)).item() / tokens.numel()
    assert mean == pytest.approx(math.log(500), rel=0.02)


def count(config: GPTConfig) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in GPT(config).parameters())


def test_parameter_counts_of_the_presets() -> None:
    assert set(PRESETS) == {"quick", "small", "gpt2"}
    assert count(preset("gpt2")) == 124_439_808  # as the published weights
    assert 8e6 < count(preset("small")) < 12e6
    assert 0.7e6 < count(preset("quick")) < 2.5e6


def test_a_model_with_tied_embeddings_saves_them_once() -> None:
    tied, free = (
        set(GPT(c).state_dict()) for c in (TINY, dataclasses.replace(TINY, tie_embeddings=False))
    )
    assert free - tied == {"head.weight"}


def test_too_many_tokens_are_refused_with_and_without_cache() -> None:
    model = build(TINY)
    with pytest.raises(ConfigError, match="context of 10 tokens; got 11 tokens; try"):
        model(torch.zeros(1, 11, dtype=torch.long))
    cache = KVCache(TINY)
    model(torch.zeros(1, 8, dtype=torch.long), cache=cache)
    with pytest.raises(ConfigError, match="got 11 tokens, 8 of them in the cache"):
        model(torch.zeros(1, 3, dtype=torch.long), cache=cache)


def test_the_package_imports_the_model_on_first_use() -> None:
    import metronorm.models as package

    assert package.GPT is GPT
    assert callable(package.sample)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = package.missing


@pytest.mark.parametrize("config", VARIANTS, ids=name_of)
def test_the_config_knows_the_number_of_parameters(config: GPTConfig) -> None:
    with torch.device("meta"):
        assert config.parameters == sum(each.numel() for each in GPT(config).parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_of_a_large_vocabulary_has_no_logits(
    tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(TINY, vocab_size=1 << 14, layers=1, tie_embeddings=tied)
    model, tokens = build(config).double(), some_tokens(config)
    targets = tokens.roll(1, dims=1)
    targets[0, 3] = -100
    logits = model(tokens).flatten(0, 1)
    want = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum")
    gradients = torch.autograd.grad(want, list(model.parameters()))
    monkeypatch.setattr(model, "logits", None)
    loss = model(tokens, targets)
    loss.backward()
    torch.testing.assert_close(loss, want)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
