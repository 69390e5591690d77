"""ConvNeXt beside the same equations in NumPy, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch

from metronorm.errors import ConfigError
from metronorm.models import ConvNeXt
from metronorm.norm import LayerNorm2d
from metronorm.train import OptimizerConfig
from metronorm.train.optimizers import default_groups

from .images import Array, convolution, drawn, gelu, layer_norm, weights


def normed(x: Array, name: str, given: dict[str, Array], norm: str) -> Array:
    if norm == "none":
        return x
    if norm == "layer":
        return layer_norm(x, given[f"{name}.weight"], given[f"{name}.bias"], 1e-6, axis=1)
    shape = (1, -1, 1, 1)
    mean, variance = x.mean((0, 2, 3)).reshape(shape), x.var((0, 2, 3)).reshape(shape)
    scaled = (x - mean) / np.sqrt(variance + 1e-5)
    return scaled * given[f"{name}.weight"].reshape(shape) + given[f"{name}.bias"].reshape(shape)


def linear(x: Array, name: str, given: dict[str, Array]) -> Array:
    """Over the channels of each pixel, (batch, channels, height, width)."""
    mixed = np.einsum("oc,bchw->bohw", given[f"{name}.weight"], x)
    return mixed + given[f"{name}.bias"][:, None, None]


def scores(images: Array, given: dict[str, Array], depths: tuple[int, ...], norm: str) -> Array:
    """The forward pass of the paper, with our differences."""
    x = convolution(images, given["stem.weight"], given["stem.bias"], 2, 1)
    number = 0
    for stage, depth in enumerate(depths):
        if stage:
            name = f"layers.{number}"
            x = normed(x, f"{name}.norm", given, norm)
            matrix = given[f"{name}.linear.weight"]  # (out, 4 channels): rows, columns, channels
            kernel = matrix.reshape(len(matrix), 2, 2, x.shape[1]).transpose(0, 3, 1, 2)
            x = convolution(x, kernel, given[f"{name}.linear.bias"], 2, 0)
            number += 1
        for _ in range(depth):
            name = f"layers.{number}"
            if f"{name}.depthwise.weight" in given:
                kernel, bias = (given[f"{name}.depthwise.{part}"] for part in ("weight", "bias"))
                mixed = normed(convolution(x, kernel, bias, 1, 1), f"{name}.norm", given, norm)
                hidden = linear(mixed, f"{name}.expand", given)
            else:
                matrix, bias = (given[f"{name}.expand.{part}"] for part in ("weight", "bias"))
                kernel = matrix.reshape(len(matrix), 3, 3, x.shape[1]).transpose(0, 3, 1, 2)
                hidden = normed(convolution(x, kernel, bias, 1, 1), f"{name}.norm", given, norm)
            x = x + linear(gelu(hidden), f"{name}.reduce", given)
            number += 1
    features = normed(x, "norm", given, norm).mean((2, 3))
    return features @ given["head.weight"].T + given["head.bias"]


@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("fused", [False, True])
def test_it_is_the_equations(norm: Any, fused: bool) -> None:
    torch.manual_seed(0)
    model = drawn(
        ConvNeXt(
            5,
            channels=2,
            widths=(4, 6),
            depths=(1, 2),
            kernel=3,
            expansion=2,
            fused=fused,
            norm=norm,
        )
    )
    images = torch.randn(3, 2, 8, 12, dtype=torch.float64)
    wanted = scores(images.numpy(), weights(model), (1, 2), norm)
    found = model(images)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-9, atol=1e-9)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_at_first_no_block_changes_anything() -> None:
    torch.manual_seed(0)
    model = ConvNeXt(5, widths=(8,), depths=(2,))
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(model.layers(x), x)
    assert torch.equal(ConvNeXt(5, widths=(8,), depths=(2,), fused=True).layers(x), x)


def test_the_norms_are_those_that_were_asked_for() -> None:
    for norm, kind in (("layer", LayerNorm2d), ("batch", torch.nn.BatchNorm2d)):
        found = ConvNeXt(3, widths=(8, 8), depths=(1, 1), norm=norm)  # type: ignore[arg-type]
        assert sum(isinstance(module, kind) for module in found.modules()) == 4
    plain = ConvNeXt(3, widths=(8, 8), depths=(1, 1), norm="none")
    assert not any("norm" in name for name, _ in plain.named_parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_muon_takes_all_matrices_but_the_head(fused: bool) -> None:
    model = ConvNeXt(3, fused=fused)
    hidden = [group for group in default_groups(model, OptimizerConfig()) if group.get("hidden")]
    inside = {id(each) for each in hidden[0]["params"]}
    outside = {name for name, each in model.named_parameters() if id(each) not in inside}
    matrices = {name for name in outside if model.get_parameter(name).dim() > 1}
    depthwise = {f"layers.{place}.depthwise.weight" for place in (0, 1, 3, 4)}
    assert matrices == {"stem.weight", "head.weight"} | (set() if fused else depthwise)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "group"}, "layer, batch, none"),
        ({"widths": (8, 8), "depths": (1,)}, "as many stages"),
        ({"widths": (), "depths": ()}, "one at least"),
        ({"kernel": 4}, "odd"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ConvNeXt(3, **options)


def test_images_that_cannot_be_halved_are_refused() -> None:
    model = ConvNeXt(3, widths=(4, 4), depths=(1, 1))
    with pytest.raises(ConfigError, match="5 x 4"):
        model(torch.zeros(1, 1, 10, 8))
