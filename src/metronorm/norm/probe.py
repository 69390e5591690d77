"""Which layer of ours computes what a norm layer computes, found by trying: names lie.

Old and new run on the same small input, with the same drawn weight and bias in the place of their
own, so that a layer that multiplies by 1 + weight, or by nothing, gives itself away. So does one
that does something else in training or in evaluation, that draws noise now and then, that has other
gradients, or that takes tokens besides images.
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

TOLERANCES = {  # relative, and absolute beside numbers of about 1
    torch.float64: 1e-5,  # transformers computes in float32 whatever comes
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
_OTHER = "computes something else than a layer or RMS norm"
_REPEATS = 32  # in each mode: of noise that comes one time in ten, 3 % stay unseen


class Norm(NamedTuple):
    """What a norm layer says of itself."""

    module: nn.Module
    shape: tuple[int, ...]
    eps: float | None
    device: torch.device
    dtype: torch.dtype  # of the weight; where there is none, of the model


def equal_layer(norm: Norm, dtypes: tuple[torch.dtype, ...], save: Save) -> nn.Module | str:
    """A new layer of ours with the old one's parameters, or why there is none.

    Args:
        norm: the old layer.
        dtypes: which inputs it may meet, besides those of its weight's dtype.
        save: what the new layer's backward pass keeps.
    """
    why = _OTHER
    cuda = [norm.device] if norm.device.type == "cuda" else []
    # what draws must leave no trace; and gradients are tried inside of inference mode, too
    with torch.random.fork_rng(cuda), torch.inference_mode(False):
        for new in _forms(norm, save):
            found = _difference(norm, new, dtypes) or _difference_in_use(norm, new)
            if found is None:
                return new
            if found != _OTHER:
                why = found
    return why


def _forms(norm: Norm, save: Save) -> Iterator[nn.Module]:
    """All layers of ours that could take the place of `norm`, with its parameters."""
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
    """Let `taker` hold the very Parameter objects of `giver`, in the giver's order."""
    own, given = parameters_of(taker), parameters_of(giver)
    taken = {name: value for name, value in given.items() if name in own}
    missing = dict.fromkeys(name for name in own if name not in given)
    set_parameters(taker, {**taken, **missing})


def _difference(norm: Norm, new: nn.Module, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """How `new` differs from the old layer; None if it does not."""
    wide = wide_dtype(norm.dtype)
    must = dict.fromkeys(((wide, wide), (norm.dtype, norm.dtype)))
    if norm.eps is None:
        dtypes = (*dtypes, torch.bfloat16)  # what None stands for must not depend on the input
    may = dict.fromkeys((dtype, norm.dtype) for dtype in dtypes)
    for x_dtype, weight_dtype in {**must, **may}:
        for x in _inputs(norm, isinstance(new, LayerNorm2d), x_dtype):
            try:
                want = _run(norm, norm.module, x, weight_dtype)
            except Exception as error:  # whatever a stranger's code raises
                if (x_dtype, weight_dtype) not in must:
                    break  # nobody calls it like this
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
    """How `new` differs in what a single output does not show: modes, noise, gradients, shapes."""
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
    """Whether the old layer, a norm over the channels of images, is a norm elsewhere too.

    Of (batch, time, channels) over the last dimension, or of (batch, channels, time) over the
    second. What merely broadcasts to something is nothing that a model would do.
    """
    wide = wide_dtype(norm.dtype)
    assert norm.eps is not None
    like = LayerNorm(norm.shape, norm.eps, device="meta")
    take_parameters(like, norm.module)
    for x in _inputs(norm, False, wide):
        if x.dim() > 3:
            break  # an image, to this layer
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
    """The gradients of x, weight and bias; None where there are none to be had."""
    leaves = [x.clone().requires_grad_()]
    try:
        y = _run(norm, module, leaves[0], x.dtype, leaves=leaves)
        if not y.requires_grad:
            return [torch.zeros_like(each) for each in leaves]
        dy = _drawn(tuple(y.shape), seed=3).to(y)
        with torch.autocast(norm.device.type, enabled=False):
            return list(torch.autograd.grad(y, leaves, dy, materialize_grads=True))
    except Exception:  # whatever a stranger's code raises
        return None


def _run(
    norm: Norm,
    module: nn.Module,
    x: Tensor,
    dtype: torch.dtype,
    training: bool | None = None,
    leaves: list[Tensor] | None = None,
) -> Tensor:
    """The output for x with drawn parameters of `dtype`; `module` itself is not touched.

    Args:
        norm: the old layer.
        module: it, or one to be compared with it.
        x: the input.
        dtype: of the parameters.
        training: the mode; its own by default.
        leaves: where to add the parameters, for their gradients to be asked for.
    """
    double = copy.copy(module)  # shares all but what is set here
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
    quiet = warnings.catch_warnings(action="ignore")  # about what nobody asked for
    recorded = torch.set_grad_enabled(leaves is not None)
    with quiet, recorded, torch.autocast(norm.device.type, enabled=False):
        return double.forward(x.clone())  # type: ignore[no-any-return]  # hooks are not for this


def _inputs(norm: Norm, images: bool, dtype: torch.dtype) -> Iterator[Tensor]:
    """Rows that are well scaled, large, and small enough for eps to matter; none is centred."""
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
    """Standard normal numbers that leave torch's own generator alone; not to be changed."""
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
