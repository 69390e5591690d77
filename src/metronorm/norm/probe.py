"""Finds the layer of ours that computes the same as a given norm layer, by running both.

The name of a layer's class is no proof. Both layers run on the same small inputs, with the same
random weight and bias. This finds a layer that multiplies by 1 + weight or by nothing, that differs
between training and evaluation, that sometimes adds noise, that has other gradients, or that takes
tokens as well as images.
"""

from __future__ import annotations

import copy
import functools
import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.errors import ConfigError
from metronorm.norm._torch_private import parameters_of, set_parameters
from metronorm.norm.composed import wide_dtype
from metronorm.norm.layer_norm import LayerNorm
from metronorm.norm.layer_norm_2d import LayerNorm2d
from metronorm.norm.rms_norm import RMSNorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from metronorm.norm.checks import Save

TOLERANCES = {  # relative and absolute; the numbers are about 1
    torch.float64: 1e-5,  # transformers computes in float32, whatever the input is
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
_OTHER = "computes something else than a layer or RMS norm"
_REPEATS = 32  # calls in each mode; noise in 1 of 10 calls is missed with a probability of 3 %


class Norm(NamedTuple):
    """A norm layer of somebody else, and its attributes."""

    module: nn.Module
    shape: tuple[int, ...]
    eps: float | None
    device: torch.device
    dtype: torch.dtype  # of the weight or, without one, of the model


def equal_layer(norm: Norm, dtypes: tuple[torch.dtype, ...], save: Save) -> nn.Module | str:
    """A new layer of ours with the parameters of the old one, or the reason why there is none.

    Args:
        norm: the old layer.
        dtypes: dtypes of the inputs that it may get, besides the dtype of its weight.
        save: the tensor that the backward pass of the new layer keeps.
    """
    reason = _OTHER
    cuda = [norm.device] if norm.device.type == "cuda" else []
    # Layers that draw must not change the generators; gradients must work under inference mode too.
    with torch.random.fork_rng(cuda), torch.inference_mode(False):
        for new in _forms(norm, save):
            found = _difference(norm, new, dtypes) or _difference_in_use(norm, new)
            if found is None:
                return new
            if found != _OTHER:
                reason = found
    return reason


def _forms(norm: Norm, save: Save) -> Iterator[nn.Module]:
    """All layers of ours that could replace `norm`, with its parameters."""
    old, shape, eps = norm.module, norm.shape, norm.eps
    weight, bias = getattr(old, "weight", None), getattr(old, "bias", None)
    affine = weight is not None
    # The empty layers are on the meta device: nothing is allocated or drawn.
    forms: list[nn.Module] = []
    if eps is not None:
        forms.append(LayerNorm(shape, eps, affine, bias is not None, "meta", save=save))
        if len(shape) == 1:
            forms.append(
                LayerNorm2d(shape[0], eps, affine, bias is not None, "meta", save=save),
            )
    if bias is None:
        forms.append(RMSNorm(shape, eps, affine, "meta", save=save))
    for new in forms:
        take_parameters(new, old)
        new.train(old.training)
        yield new


def take_parameters(taker: nn.Module, giver: nn.Module) -> None:
    """Make `taker` hold the same Parameter objects as `giver`, in the order of `giver`."""
    own, given = parameters_of(taker), parameters_of(giver)
    taken = {name: value for name, value in given.items() if name in own}
    missing = dict.fromkeys(name for name in own if name not in given)
    set_parameters(taker, {**taken, **missing})


def _difference(norm: Norm, new: nn.Module, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """How the outputs of `new` differ from those of the old layer; None if they do not."""
    wide = wide_dtype(norm.dtype)
    must = dict.fromkeys(((wide, wide), (norm.dtype, norm.dtype)))
    if norm.eps is None:
        dtypes = (*dtypes, torch.bfloat16)  # None must not mean another number in another dtype
    may = dict.fromkeys((dtype, norm.dtype) for dtype in dtypes)
    for x_dtype, weight_dtype in {**must, **may}:
        for x in _inputs(norm, isinstance(new, LayerNorm2d), x_dtype):
            try:
                want = _run(norm, norm.module, x, weight_dtype)
            except Exception as error:  # code of somebody else may raise anything
                if (x_dtype, weight_dtype) not in must:
                    break  # nobody calls the layer like this
                return _OTHER if x_dtype == wide else f"fails in {_name(x_dtype)}: {_line(error)}"
            pair = f"a {_name(x_dtype)} input beside {_name(weight_dtype)} weights"
            try:
                got = _run(norm, new, x, weight_dtype)
            except ConfigError:
                return f"takes {pair}, which ours does not"
            if not isinstance(want, torch.Tensor) or want.shape != got.shape:
                return _OTHER
            if want.dtype != got.dtype:
                return f"makes {_name(want.dtype)} of {pair}, ours {_name(got.dtype)}"
            if not _close(got, want):
                return _OTHER if x_dtype == wide else f"gives other numbers for {pair}"
    return None


def _difference_in_use(norm: Norm, new: nn.Module) -> str | None:
    """How `new` differs in modes, noise, gradients or accepted shapes; None if it does not."""
    wide = wide_dtype(norm.dtype)
    images = isinstance(new, LayerNorm2d)
    x = next(_inputs(norm, images, wide))[:2]
    want = _run(norm, new, x, wide)
    for training in (norm.module.training, not norm.module.training):
        for _ in range(_REPEATS):
            try:
                got = _run(norm, norm.module, x, wide, training)
            except Exception as error:
                return f"fails in {'training' if training else 'evaluation'}: {_line(error)}"
            if not _close(got, want):
                if training == norm.module.training:
                    return "gives other numbers when it is called again"
                return f"computes something else in {'training' if training else 'evaluation'}"
    gradients = _gradients(norm, norm.module, x)
    if gradients is not None and not all(map(_close, gradients, _gradients(norm, new, x) or ())):
        return "has other gradients than a layer or RMS norm"
    if images and _takes_tokens(norm):
        return "takes tokens besides images, which no layer of ours does"
    return None


def _takes_tokens(norm: Norm) -> bool:
    """Whether the old layer, a norm over the channels of images, also normalizes tokens.

    Tokens are (batch, time, channels), normalized over the last dimension, or (batch, channels,
    time), normalized over the second. An input that only happens to broadcast does not count.
    """
    wide = wide_dtype(norm.dtype)
    assert norm.eps is not None
    like = LayerNorm(norm.shape, norm.eps, device="meta")
    take_parameters(like, norm.module)
    for x in _inputs(norm, False, wide):
        if x.dim() > 3:
            break  # this layer takes it for an image
        want = _run(norm, like, x, wide)
        for there, back in ((x, want), (x.transpose(1, -1), want.transpose(1, -1))):
            try:
                got = _run(norm, norm.module, there, wide)
            except Exception:
                continue
            if isinstance(got, torch.Tensor) and got.shape == back.shape and _close(got, back):
                return True
    return False


def _gradients(norm: Norm, module: nn.Module, x: Tensor) -> list[Tensor] | None:
    """The gradients of x, weight and bias; None if the layer has none or fails."""
    leaves = [x.clone().requires_grad_()]
    try:
        y = _run(norm, module, leaves[0], x.dtype, leaves=leaves)
        if not y.requires_grad:
            return [torch.zeros_like(each) for each in leaves]
        dy = _drawn(tuple(y.shape), seed=3).to(y)
        with torch.autocast(norm.device.type, enabled=False):
            return list(torch.autograd.grad(y, leaves, dy, materialize_grads=True))
    except Exception:  # code of somebody else may raise anything
        return None


def _run(
    norm: Norm,
    module: nn.Module,
    x: Tensor,
    dtype: torch.dtype,
    training: bool | None = None,
    leaves: list[Tensor] | None = None,
) -> Tensor:
    """The output for x with random parameters of `dtype`; `module` itself is not changed.

    Args:
        norm: the old layer.
        module: the old layer, or one that is compared with it.
        x: the input.
        dtype: dtype of the parameters.
        training: the mode; by default that of the module.
        leaves: a list that the parameters are added to, so that their gradients can be computed.
    """
    double = copy.copy(module)  # shares everything except what is set here
    double.training = module.training if training is None else training
    drawn = {"weight": _drawn(norm.shape, 1) + 1.5, "bias": _drawn(norm.shape, 2)}
    parameters = {
        name: None if own is None else drawn[name].to(norm.device, dtype, copy=True)
        for name, own in parameters_of(module).items()
    }
    set_parameters(double, parameters)
    if leaves is not None:
        given = [value for _, value in sorted(parameters.items()) if value is not None]
        leaves += [value.requires_grad_() for value in given]
    quiet = warnings.catch_warnings(action="ignore")  # the user did not make this call
    gradients = torch.set_grad_enabled(leaves is not None)
    with quiet, gradients, torch.autocast(norm.device.type, enabled=False):
        return double.forward(x.clone())  # type: ignore[no-any-return]  # without the hooks of the module


def _inputs(norm: Norm, images: bool, dtype: torch.dtype) -> Iterator[Tensor]:
    """Rows of normal size, large ones, and ones so small that eps matters; none has mean 0."""
    small = (norm.eps or torch.finfo(torch.float32).eps) ** 0.5
    for lead in ((2, 2, 3),) if images else ((6,), (2, 3), (2, 3, 2)):
        x = _drawn((*lead, *norm.shape), seed=0) + 0.5
        rows = x.flatten(0, len(lead) - 1)
        for at, scale in enumerate((1.0, small, 30.0)):
            rows[at::3] *= scale
        if images:
            x = x.permute(0, 3, 1, 2).contiguous()
        yield x.to(norm.device, dtype)


@functools.lru_cache(maxsize=8)
def _drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers from a generator of their own; cached, so callers must copy them."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def _close(got: Tensor, want: Tensor) -> bool:
    tolerance = TOLERANCES[want.dtype]
    pair = got.cpu().double(), want.cpu().double()
    return torch.allclose(*pair, rtol=tolerance, atol=tolerance)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
