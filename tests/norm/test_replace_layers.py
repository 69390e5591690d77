"""replace_norms for single layers: which of ours replaces them, or why they are left."""

from __future__ import annotations

import copy
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metronorm.errors import ConfigError
from metronorm.norm import AddLayerNorm, LayerNorm, LayerNorm2d, RMSNorm, replace_norms

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER = "^computes something else than a layer or RMS norm$"


def test_a_half_precision_norm_of_a_float32_stream_keeps_its_numbers() -> None:
    """Equal, or left: torch's layer accepts the input, with a warning that must not matter."""
    model = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8, eps=1e-6, dtype=torch.bfloat16))
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    want = nn.functional.rms_norm(model[0](x), (8,), eps=1e-6)
    replace_norms(model)
    with warnings.catch_warnings(action="ignore"):
        torch.testing.assert_close(model(x), want)


@pytest.mark.parametrize("train", [True, False])
def test_torchs_own_layers_with_all_their_options(train: bool) -> None:
    model = nn.Sequential(
        nn.LayerNorm(6),
        nn.LayerNorm((4, 6), eps=1e-3),
        nn.LayerNorm(6, bias=False),
        nn.LayerNorm(6, elementwise_affine=False),
        nn.RMSNorm(6, eps=1e-4),
        nn.RMSNorm((4, 6), eps=1e-2, elementwise_affine=False),
    )
    model[0].requires_grad_(False)
    model.train(train)
    for value in model.parameters():
        nn.init.normal_(value)
    old = list(model)
    x = torch.randn(3, 4, 6)
    wants = [layer(x) for layer in old]
    assert str(replace_norms(model)) == "6 norms swapped, 0 skipped"
    for new, before, want in zip(model, old, wants, strict=True):
        assert isinstance(new, LayerNorm if isinstance(before, nn.LayerNorm) else RMSNorm)
        assert (new.eps, new.training, new.normalized_shape) == (
            before.eps,
            train,
            before.normalized_shape,
        )
        torch.testing.assert_close(new(x), want, rtol=1e-5, atol=1e-5)
    assert not model[0].weight.requires_grad


def test_an_optimizer_keeps_the_same_parameters() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    model = copy.deepcopy(plain)
    x = torch.randn(8, 4)
    for made in (plain, model):
        optimizer = torch.optim.Adam(made.parameters(), lr=0.1)
        for step in range(4):
            if made is model and step == 2:
                replace_norms(model)
            optimizer.zero_grad()
            made(x).square().mean().backward()
            optimizer.step()
    assert isinstance(model[1], LayerNorm)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_an_rms_norm_without_eps_keeps_its_numbers(dtype: torch.dtype) -> None:
    """The meaning of None depends on torch's version: the layer is equal, or left."""
    model = nn.Sequential(nn.RMSNorm(8), nn.RMSNorm(8, elementwise_affine=False)).to(dtype)
    x = (torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) * 1e-2).to(dtype)
    half = x.bfloat16()
    want, half_want = model(x), model[1](half)
    replaced = replace_norms(model)
    assert len(replaced.swapped) + len(replaced.skipped) == 2
    torch.testing.assert_close(model(x), want)
    torch.testing.assert_close(model[1](half), half_want)


class ChannelsFirst(nn.LayerNorm):
    """As in torchvision and timm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_norm_over_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), ChannelsFirst(5, eps=1e-6))
    x = torch.randn(2, 3, 4, 4)
    want = model(x)
    replace_norms(model)
    assert type(model[1]) is LayerNorm2d
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["torchvision.models.convnext", "timm.layers"])
def test_the_norm_over_channels_of_libraries(name: str) -> None:
    model = nn.Sequential(pytest.importorskip(name).LayerNorm2d(5))
    want = model(torch.ones(2, 5, 3, 3))
    replace_norms(model)
    assert type(model[0]) is LayerNorm2d
    torch.testing.assert_close(model(torch.ones(2, 5, 3, 3)), want)


# Layers that are left -----------------------------------------------------------------------------


class OddRMSNorm(nn.Module):
    """A norm by name; its formula is an argument."""

    def __init__(self, run: Callable[..., Tensor], **attributes: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.eps = 1e-6
        self.run = run
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class GatedRMSNorm(OddRMSNorm):
    """Equal to a norm, unless the model calls it with a gate."""

    def forward(self, x: Tensor, gate: float = 1.0) -> Tensor:
        return super().forward(x) * gate


def rms(self: Any, x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


def unbiased(self: Any, x: Tensor) -> Tensor:
    return (
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.eps).sqrt() * self.weight
    )


def without_eps(self: Any, x: Tensor) -> Tensor:
    return x * x.square().mean(-1, keepdim=True).rsqrt() * self.weight


def first_axis_of_images(self: Any, x: Tensor) -> Tensor:
    return rms(self, x.movedim(1, -1)).movedim(-1, 1) if x.dim() == 4 else rms(self, x)


def fails(self: Any, x: Tensor) -> Tensor:
    raise RuntimeError("out of order")


def only_wide(self: Any, x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise RuntimeError("float32 only")
    return rms(self, x)


def test_an_rms_norm_of_another_library_is_replaced() -> None:
    assert replace_norms(nn.Sequential(OddRMSNorm(rms))).swapped == ("0",)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (lambda: nn.BatchNorm1d(8), "a BatchNorm1d is neither a layer nor an RMS norm"),
        (lambda: nn.GroupNorm(2, 8), "a GroupNorm is neither"),
        (lambda: nn.InstanceNorm2d(8), "an? InstanceNorm2d is neither"),
        (lambda: LayerNorm(8), "^already ours$"),
        (lambda: AddLayerNorm(8), "^already ours$"),
        (lambda: nn.LayerNorm(8, device="meta"), "^is on the meta device"),
        (lambda: nn.LayerNorm(8, eps=0.0), "^has no eps above zero$"),
        (lambda: OddRMSNorm(rms, eps=None), "^has no eps above zero$"),
        (lambda: OddRMSNorm(rms, weight=None), "^has no weight of its own$"),
        (lambda: OddRMSNorm(rms, weight=nn.Parameter(torch.ones(2, 8))), "^its weight has 2 dim"),
        (lambda: OddRMSNorm(rms, other=nn.Parameter(torch.ones(8))), "^holds more than a weight"),
        (lambda: OddRMSNorm(rms).to(torch.float8_e4m3fn), "^its parameters are float8_e4m3fn$"),
        (lambda: OddRMSNorm(rms, weight=nn.Parameter(torch.ones(0))), "^normalizes nothing$"),
        (lambda: nn.LayerNorm(0, elementwise_affine=False), "^normalizes nothing$"),
        (lambda: GatedRMSNorm(rms), "^its forward takes more than one input$"),
        (lambda: OddRMSNorm(unbiased), OTHER),
        (lambda: OddRMSNorm(without_eps), OTHER),
        (lambda: OddRMSNorm(first_axis_of_images), OTHER),
        (lambda: OddRMSNorm(fails), OTHER),
        (lambda: OddRMSNorm(only_wide).to(torch.bfloat16), "^fails in bfloat16: float32 only$"),
        (lambda: OddRMSNorm(rms, forward=torch.relu), "^its forward was replaced$"),
    ],
)
def test_what_is_left_and_why(layer: Callable[[], nn.Module], why: str) -> None:
    made = layer()
    model = nn.Sequential(nn.Identity(), made)
    replaced = replace_norms(model)
    assert model[1] is made
    assert replaced.swapped == ()
    assert list(replaced.skipped) == ["1"]
    assert re.search(why, replaced.skipped["1"]), replaced.skipped["1"]


@pytest.mark.parametrize(
    "hook",
    [
        lambda layer: layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.register_forward_pre_hook(lambda *_: None),
        lambda layer: layer.register_full_backward_hook(lambda *_: None),
        lambda layer: layer.register_state_dict_pre_hook(lambda *_: None),
    ],
)
def test_a_layer_is_left_while_it_has_hooks(hook: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))
    handle = hook(model[1])
    replaced = replace_norms(model)
    assert (replaced.swapped, replaced.skipped) == (("0",), {"1": "has hooks of its own"})
    handle.remove()
    assert replace_norms(model).swapped == ("1",)


def test_a_parametrized_layer_is_left() -> None:
    model = nn.Sequential(nn.LayerNorm(4), OddRMSNorm(rms))
    for layer in model:
        nn.utils.parametrize.register_parametrization(layer, "weight", nn.ReLU())
    assert replace_norms(model).skipped == {"0": "is parametrized", "1": "is parametrized"}


def test_weight_and_bias_of_two_dtypes_are_left() -> None:
    model = nn.Sequential(nn.LayerNorm(4))
    model[0].bias.data = model[0].bias.data.double()
    assert replace_norms(model).skipped == {"0": "its weight and bias are of two dtypes"}


def test_a_parametrization_is_not_a_norm() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert replace_norms(nn.Sequential(linear, nn.LayerNorm(4))).skipped == {}


class OddParameter(nn.Parameter):
    """A parameter class, as sharded and quantized models have them."""


def test_parameters_of_another_class_are_left() -> None:
    model = nn.Sequential(nn.LayerNorm(4))
    model[0].weight = OddParameter(torch.ones(4))
    assert "OddParameter" in replace_norms(model).skipped["0"]


def test_lazy_layers_prevent_nothing() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.LayerNorm(4), nn.LazyBatchNorm1d())
    assert str(replace_norms(model)) == (
        "1 norm swapped, 1 skipped: 2 (a LazyBatchNorm1d is neither a layer nor an RMS norm)"
    )


@pytest.mark.parametrize("model", [nn.LayerNorm(4), nn.BatchNorm1d(4), RMSNorm(4)])
def test_a_model_that_is_a_norm_is_refused(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"replaced inside a model; got .* a norm itself; try: "):
        replace_norms(model)


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must be a torch\.nn\.Module; got str"):
        replace_norms("llama")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="save must be"):
        replace_norms(nn.Sequential(), save="both")  # type: ignore[arg-type]


# Differences that one run in one mode does not show -----------------------------------------------


def rms_in_evaluation(self: Any, x: Tensor) -> Tensor:
    return 2 * rms(self, x) if self.training else rms(self, x)


def rms_in_training(self: Any, x: Tensor) -> Tensor:
    return rms(self, x) if self.training else 2 * rms(self, x)


def noisy_in_training(self: Any, x: Tensor) -> Tensor:
    return rms(self, x) + 0.1 * torch.randn_like(x) * self.training


def noisy_now_and_then(self: Any, x: Tensor) -> Tensor:
    return rms(self, x) * (1 + (torch.rand(()) < 0.25))


def fails_in_training(self: Any, x: Tensor) -> Tensor:
    if self.training:
        raise RuntimeError("for inference only")
    return rms(self, x)


def without_the_slope_of_the_root(self: Any, x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt().detach() * self.weight


def with_a_frozen_weight(self: Any, x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight.detach()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("run", "why"),
    [
        (rms_in_evaluation, "something else"),
        (rms_in_training, "something else"),
        (noisy_in_training, "something else"),
        (noisy_now_and_then, "gives other numbers when it is called again"),
        (fails_in_training, "fails in training: for inference only|something else"),
        (without_the_slope_of_the_root, "^has other gradients than a layer or RMS norm$"),
        (with_a_frozen_weight, "^has other gradients"),
        (lambda self, x: rms(self, x).detach(), "^has other gradients"),
    ],
)
def test_modes_repeated_calls_and_gradients_are_compared(
    run: Callable[..., Tensor], why: str, training: bool
) -> None:
    model = nn.Sequential(OddRMSNorm(run)).train(training)
    state = torch.get_rng_state()
    (left,) = replace_norms(model).skipped.values()
    assert re.search(f"{why}|{OTHER}", left), left
    assert type(model[0]) is OddRMSNorm
    assert torch.equal(torch.get_rng_state(), state)


class NoBackward(torch.autograd.Function):
    """A norm without gradients, as kernels for inference are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight


def test_a_layer_without_gradients_is_replaced() -> None:
    model = nn.Sequential(OddRMSNorm(lambda self, x: NoBackward.apply(x, self.weight)))
    assert replace_norms(model).swapped == ("0",)


class TokensAndImages(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return super().forward(x)


class SecondAxis(nn.LayerNorm):
    """A norm for images, series and videos."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class OfConvNeXt(nn.LayerNorm):
    """As first published: its result for tokens is meaningless, and prevents nothing."""

    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(1, keepdim=True)
        d = d / (d.square().mean(1, keepdim=True) + self.eps).sqrt()
        return self.weight[:, None, None] * d + self.bias[:, None, None]


@pytest.mark.parametrize("kind", [TokensAndImages, SecondAxis])
def test_a_norm_for_more_than_images_is_left(kind: Any) -> None:
    model = nn.Sequential(kind(5))
    wants = [model(x) for x in (torch.ones(2, 5, 3, 3), torch.ones(2, 5, 5))]
    assert replace_norms(model).skipped == {
        "0": "takes tokens besides images, which no layer of ours does"
    }
    assert torch.equal(model(torch.ones(2, 5, 3, 3)), wants[0])
    assert torch.equal(model(torch.ones(2, 5, 5)), wants[1])


def test_the_norm_of_convnext_is_replaced() -> None:
    model, x = nn.Sequential(OfConvNeXt(5, eps=1e-6)), torch.randn(2, 5, 3, 3)
    want = model(x)
    assert replace_norms(model).swapped == ("0",)
    assert type(model[0]) is LayerNorm2d
    torch.testing.assert_close(model(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eps", [np.float32(1e-5), torch.tensor(1e-3)])
def test_eps_may_be_a_number_of_another_library(eps: Any) -> None:
    model = nn.Sequential(OddRMSNorm(rms))
    vars(model[0])["eps"] = eps
    replace_norms(model)
    assert model[0].eps == float(eps)
