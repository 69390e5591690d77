"""Which layer of ours computes what a norm layer computes, found by trying: names lie.

Old and new run on the same small input, with the same drawn weight and bias in the place of their
own, so that a layer that multiplies by 1 + weight, or by nothing, gives itself away.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.errors import ConfigError
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
    for new in _forms(norm, save):
        found = _difference(norm, new, dtypes)
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
    own, given = taker._parameters, giver._parameters
    taker._parameters = {name: given[name] for name in given if name in own} | {
        name: None for name in own if name not in given
    }


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


def _run(norm: Norm, module: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The output for x with drawn parameters of `dtype`; `module` itself is not touched."""
    double = copy.copy(module)  # shares all but what is set here
    drawn = {"weight": _drawn(norm.shape, 1) + 1.5, "bias": _drawn(norm.shape, 2)}
    double._parameters = {
        name: None if own is None else drawn[name].to(norm.device, dtype)  # type: ignore[misc]
        for name, own in module._parameters.items()
    }
    quiet = warnings.catch_warnings(action="ignore")  # about what nobody asked for
    with quiet, torch.no_grad(), torch.autocast(norm.device.type, enabled=False):
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


def _drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers that leave torch's own generator alone."""
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
