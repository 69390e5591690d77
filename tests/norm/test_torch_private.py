"""The private APIs of torch that the norms need still do what we need; read in torch 2.13."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

from metronorm.norm import LayerNorm, _torch_private


def test_nothing_is_recorded_below_autograd() -> None:
    x, weight = torch.randn(2, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    args = x, weight, None, 1, 1e-5, True, False
    operator = torch.ops.metronorm.norm.default
    recorded = operator(*args)
    found = _torch_private.below_autograd(operator, *args)
    for ours, want in zip(found, recorded, strict=True):
        assert not ours.requires_grad
        assert want.requires_grad
        assert torch.equal(ours, want)
    assert operator(*args)[0].requires_grad, "autograd records again afterwards"


def test_transforms_are_seen() -> None:
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(_torch_private.is_transformed())
        return x.sum()

    x = torch.ones(2, 3)
    assert not _torch_private.is_transformed()
    vmap(look)(x)
    grad(look)(x)
    jvp(look, (x,), (x,))
    with forward_ad.dual_level():
        look(x)
    assert seen == [True] * 4
    assert not _torch_private.is_transformed()


def test_tensors_without_values_are_seen() -> None:
    with FakeTensorMode():
        fake = torch.ones(3)
    for tensor in (fake, nn.Parameter(fake), torch.ones(3, device="meta")):
        assert _torch_private.has_no_values(tensor)
    for tensor in (torch.ones(3), nn.Parameter(torch.ones(3)), torch.empty(0)):
        assert not _torch_private.has_no_values(tensor)


def test_removed_kernels_are_gone_at_once() -> None:
    fragment = torch.library.Library("metronorm_canary", "DEF")
    fragment.define("one(Tensor x) -> Tensor")
    fragment.impl("one", lambda x: x + 1, "CompositeExplicitAutograd")
    override = torch.library.Library("metronorm_canary", "IMPL")
    override.impl("one", lambda x: x + 2, "CPU")
    x = torch.zeros(())
    assert torch.ops.metronorm_canary.one(x) == 2
    _torch_private.remove_kernels(override)
    assert torch.ops.metronorm_canary.one(x) == 1
    _torch_private.remove_kernels(fragment)


def test_parameters_are_listed_and_replaced_in_their_order() -> None:
    layer = LayerNorm(3, bias=False)
    assert list(_torch_private.parameters_of(layer)) == ["weight", "bias"]
    assert _torch_private.parameters_of(layer)["bias"] is None
    bias, weight = nn.Parameter(torch.zeros(3)), torch.ones(3)
    _torch_private.set_parameters(layer, {"bias": bias, "weight": weight})
    assert list(layer.state_dict()) == ["bias", "weight"]
    assert layer.bias is bias
    assert layer.weight is weight, "a plain tensor is taken"


def nothing(*_args: Any) -> None:
    """A hook of any kind."""


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "register_load_state_dict_pre_hook",
        "register_load_state_dict_post_hook",
    ],
)
def test_every_kind_of_hook_is_seen(register: str) -> None:
    layer = nn.LayerNorm(3)
    assert not _torch_private.has_hooks(layer)
    handle = getattr(layer, register)(nothing)
    assert _torch_private.has_hooks(layer)
    handle.remove()
    assert not _torch_private.has_hooks(layer)
