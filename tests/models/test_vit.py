"""The vision transformer beside the same equations in NumPy, and what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.errors import ConfigError
from metronorm.models import ViT

from .images import Array, convolution, drawn, gelu, layer_norm, softmax, weights

HEADS = 2


def linear(x: Array, name: str, given: dict[str, Array]) -> Array:
    bias = given.get(f"{name}.bias", 0.0)
    return x @ given[f"{name}.weight"].T + bias


def normed(x: Array, name: str, given: dict[str, Array]) -> Array:
    return layer_norm(x, given[f"{name}.weight"], given[f"{name}.bias"], 1e-5)


def attention(x: Array, name: str, given: dict[str, Array]) -> Array:
    queries, keys, values = np.split(linear(x, f"{name}.qkv", given), 3, axis=2)
    mixed = np.zeros_like(x)
    size = x.shape[2] // HEADS
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        likeness = queries[:, :, part] @ keys[:, :, part].transpose(0, 2, 1) / math.sqrt(size)
        mixed[:, :, part] = softmax(likeness) @ values[:, :, part]
    return linear(mixed, f"{name}.out", given)


def scores(images: Array, given: dict[str, Array], layers: int) -> Array:
    """The forward pass, with each residual added where it is made."""
    x = convolution(images, given["stem.0.weight"], given["stem.0.bias"], 2, 1)
    x = gelu(layer_norm(x, given["stem.1.weight"], given["stem.1.bias"], 1e-6, axis=1))
    x = convolution(x, given["stem.3.weight"], given["stem.3.bias"], 2, 1)
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1) + given["positions"]
    for layer in range(layers):
        name = f"blocks.{layer}"
        x = x + attention(normed(x, f"{name}.attention_norm", given), f"{name}.attention", given)
        hidden = gelu(linear(normed(x, f"{name}.mlp_norm", given), f"{name}.expand", given))
        x = x + linear(hidden, f"{name}.reduce", given)
    tokens = normed(x, "norm", given)
    share = softmax(tokens @ given["pool"], axis=1)
    return linear((tokens * share[:, :, None]).sum(1), "head", given)


def test_it_is_the_equations() -> None:
    torch.manual_seed(0)
    model = drawn(ViT(5, size=(12, 9), channels=2, width=8, layers=2, heads=HEADS))
    images = torch.randn(3, 2, 12, 9, dtype=torch.float64)
    found = model(images)
    wanted = scores(images.numpy(), weights(model), 2)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_at_first_no_block_changes_anything() -> None:
    torch.manual_seed(0)
    deep, flat = ViT(5, layers=2, width=8, heads=2), ViT(5, layers=0, width=8, heads=2)
    flat.load_state_dict({name: deep.state_dict()[name] for name in flat.state_dict()})
    images = torch.randn(2, 1, 28, 28)
    assert torch.allclose(deep(images), flat(images), atol=1e-6)


@pytest.mark.parametrize("options", [{"heads": 5}, {"width": 9, "heads": 3}, {"heads": 0}])
def test_heads_that_do_not_divide_the_width_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="heads must divide"):
        ViT(3, **options)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="28 x 28"):
        ViT(3)(torch.zeros(1, 1, 32, 32))
