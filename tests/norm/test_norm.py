"""LayerNorm and RMSNorm against their equations in float64, torch's own layers, bad arguments."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from metronorm.errors import ConfigError
from metronorm.norm import LayerNorm, RMSNorm


@pytest.mark.parametrize("shape", [5, (5,), (3, 5)])
def test_layer_norm_is_its_equation(shape: Any) -> None:
    torch.manual_seed(0)
    layer, x = LayerNorm(shape), torch.randn(4, 3, 5) * 3 + 1
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    over = (-1,) if layer.weight.dim() == 1 else (-2, -1)
    wide = x.double()
    centred = wide - wide.mean(over, keepdim=True)
    want = centred / (centred.square().mean(over, keepdim=True) + 1e-5).sqrt()
    want = want * layer.weight.double() + layer.bias.double()
    torch.testing.assert_close(layer(x).double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eps", [None, 1e-2])
def test_rms_norm_is_its_equation(eps: float | None) -> None:
    torch.manual_seed(0)
    layer = RMSNorm(5) if eps is None else RMSNorm(5, eps)
    x = torch.randn(4, 5) * 1e-3  # small enough for eps to matter
    nn.init.normal_(layer.weight)
    wide = x.double()
    mean = wide.square().mean(-1, keepdim=True)
    want = wide / (mean + (1e-6 if eps is None else eps)).sqrt() * layer.weight.double()
    torch.testing.assert_close(layer(x).double(), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LayerNorm(6), nn.LayerNorm(6)),
        (LayerNorm(6, 1e-3, bias=False), nn.LayerNorm(6, 1e-3, bias=False)),
        (LayerNorm(6, elementwise_affine=False), nn.LayerNorm(6, elementwise_affine=False)),
        (RMSNorm(6), nn.RMSNorm(6, 1e-6)),
        (RMSNorm(6, elementwise_affine=False), nn.RMSNorm(6, 1e-6, elementwise_affine=False)),
    ],
)
def test_a_fresh_layer_is_torchs_gradients_and_state_included(
    ours: nn.Module, theirs: nn.Module
) -> None:
    torch.manual_seed(0)
    x, slope = torch.randn(3, 6), torch.randn(3, 6)
    theirs.load_state_dict(ours.state_dict())  # same names and shapes
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(slope)
        results.append([y, leaf.grad, *(weight.grad for weight in layer.parameters())])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("shape", [0, -3, (), (4, 0), True, 2.5, "4", None])
def test_sizes_below_one_are_refused(layer: Any, shape: Any) -> None:
    with pytest.raises(ConfigError, match="normalized_shape must hold sizes of at least 1; got"):
        layer(shape)


@pytest.mark.parametrize("layer", [LayerNorm, RMSNorm])
@pytest.mark.parametrize("eps", [-1e-5, math.nan, math.inf, None, True])
def test_eps_must_be_finite_and_not_negative(layer: Any, eps: Any) -> None:
    with pytest.raises(ConfigError, match="eps must be finite and at least 0; got"):
        layer(4, eps)


@pytest.mark.parametrize("layer", [LayerNorm, RMSNorm])
def test_device_and_dtype_reach_the_parameters(layer: Any) -> None:
    made = layer(4, device="meta", dtype=torch.bfloat16)
    assert {(w.device.type, w.dtype) for w in made.parameters()} == {("meta", torch.bfloat16)}
