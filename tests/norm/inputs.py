"""Shared by the tests of the norms: inputs, runs, and the errors that the equations allow.

A result may differ from the float64 equation of the same inputs by the sum of

- half a unit in the last place of its own dtype, for one rounding;
- ROUNDINGS units of float32 (of float64 for float64 results), times the sum of the absolute values
  of its terms. There, h counts as |h| + 1, since it is not known better than to a unit of 1. If the
  normalized tensor has 16 bits, it is HALF_ROUNDINGS, still a 64th of float16's own rounding. Sums
  over n rows get sqrt(n) units more; test_figures.py tests their precision;
- if the output was saved: the error of h = (y - bias) / weight that comes from the rounding of y;
- half the smallest number of a 16-bit dtype, or the smallest normal number of another one.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metronorm.norm import add_layer_norm, add_rms_norm, layer_norm, reference, rms_norm
from metronorm.norm.dropout import draw_seed, keep_scale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.norm.checks import Save

ROUNDINGS = 16
HALF_ROUNDINGS = 64

FP32, BF16, FP16, FP64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
_FLOOR = {FP16: 2.0**-25}

Kind = Literal["layer_norm", "rms_norm"]
KINDS: tuple[Kind, ...] = ("layer_norm", "rms_norm")
SAVES: tuple[Save, ...] = ("input", "output")
AFFINE = ("both", "weight", "bias", "none")
WIDTHS = (1, 2, 7, 16, 17, 31, 64, 100, 768, 1023, 2048, 5000)
ROWS = (0, 1, 3, 33)


class Mix(NamedTuple):
    """The dtypes of the tensors of a test."""

    x: torch.dtype
    weight: torch.dtype
    residual: torch.dtype


MIXES = {
    "fp32": Mix(FP32, FP32, FP32),
    "bf16": Mix(BF16, BF16, BF16),
    "fp16": Mix(FP16, FP16, FP16),
    "fp64": Mix(FP64, FP64, FP64),
    "bf16, weights fp32": Mix(BF16, FP32, BF16),
    "fp16, weights fp32": Mix(FP16, FP32, FP16),
}
ADD_MIXES = MIXES | {
    "bf16, residual fp32": Mix(BF16, BF16, FP32),
    "bf16, residual and weights fp32": Mix(BF16, FP32, FP32),
    "fp16, residual and weights fp32": Mix(FP16, FP32, FP32),
}


class Judged(NamedTuple):
    """A float64 result, and the errors that a result in another dtype may have."""

    want: Tensor
    scale: Tensor  # sum of the absolute terms, for rounding errors of the sums
    loss: Tensor | float = 0.0  # absolute
    roundings: int = ROUNDINGS


# Inputs -------------------------------------------------------------------------------------------


def draw(
    shape: tuple[int, ...], dtype: torch.dtype = FP32, seed: int = 0, *, scale: float = 1.0
) -> Tensor:
    """Normal numbers times `scale`, the same in every call."""
    chance = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=chance) * scale).to(dtype)


def draw_x(shape: tuple[int, ...], dtype: torch.dtype = FP32, seed: int = 0) -> Tensor:
    """Rows with a mean other than 0 and a deviation other than 1."""
    return (draw(shape, FP64, seed) * 3 + 1).to(dtype)


def draw_affine(
    shape: tuple[int, ...], dtype: torch.dtype = FP32, which: str = "both", seed: int = 1
) -> tuple[Tensor | None, Tensor | None]:
    """Weights of both signs, not near 0, and biases; None for each that `which` leaves out."""
    weight = draw(shape, FP64, seed)
    weight = torch.where(weight < 0, weight - 0.5, weight + 0.5).to(dtype)
    bias = draw(shape, dtype, seed + 1, scale=0.5)
    return (
        weight if which in ("both", "weight") else None,
        bias if which in ("both", "bias") else None,
    )


def leaf(x: Tensor | None) -> Tensor | None:
    """A leaf with the same memory and layout, which requires a gradient."""
    return None if x is None else x.detach().requires_grad_()


# Runs ---------------------------------------------------------------------------------------------


def apply(
    kind: Kind,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    dims: int = 1,
    eps: float = 1e-5,
    save: Save = "input",
) -> Tensor:
    """The norm of the last `dims` dimensions."""
    shape = x.shape[-dims:]
    if kind == "layer_norm":
        return layer_norm(x, shape, weight, bias, eps, save=save)
    assert bias is None
    return rms_norm(x, shape, weight, eps, save=save)


def apply_add(
    kind: Kind,
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    dims: int = 1,
    eps: float = 1e-5,
    save: Save = "input",
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The norm of the sum, and the sum."""
    shape = x.shape[-dims:]
    if kind == "layer_norm":
        return add_layer_norm(x, residual, shape, weight, bias, eps, dropout=dropout, save=save)
    assert bias is None
    return add_rms_norm(x, residual, shape, weight, eps, dropout=dropout, save=save)


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Inside the block torch computes on `count` threads."""
    before = torch.get_num_threads()
    if count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count != before:
            torch.set_num_threads(before)


def thread_counts(backend: str) -> tuple[int, ...]:
    """The numbers of threads to test a backend on; torch divides work in its own way."""
    return (1,) if backend == "torch" else (1, 2, 3)


def run(
    kind: Kind,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dims: int = 1,
    eps: float = 1e-5,
    save: Save = "input",
    dy: Tensor,
    threads: int = 1,
) -> dict[str, Tensor]:
    """y and the gradients of x, weight and bias, by name."""
    leaves = {"x": leaf(x), "weight": leaf(weight), "bias": leaf(bias)}
    with on_threads(threads):
        y = apply(kind, *leaves.values(), dims, eps, save)
        y.backward(dy)
    return {"y": y.detach()} | _gradients(leaves)


def _gradients(leaves: dict[str, Tensor | None]) -> dict[str, Tensor]:
    given = {name: value for name, value in leaves.items() if value is not None}
    for name, value in given.items():
        assert value.grad is not None, name
        assert value.grad.shape == value.shape, name
        assert value.grad.dtype == value.dtype, name
    return {f"d{name}": value.grad for name, value in given.items()}


# Judgement ----------------------------------------------------------------------------------------


def equations(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    dims: int = 1,
    eps: float = 1e-5,
    centred: bool = True,
    saved: torch.dtype | None = None,
) -> dict[str, Judged]:
    """y, dx, dweight and dbias; `saved` is the dtype of the output if that was saved."""
    n = math.prod(x.shape[x.dim() - dims :])
    roundings = HALF_ROUNDINGS if x.dtype in (BF16, FP16) else ROUNDINGS
    wide = x.dtype == FP64
    x, dy = x.reshape(-1, n).double(), dy.reshape(-1, n).double()
    w = torch.ones(n, dtype=FP64) if weight is None else weight.reshape(-1).double()
    b = torch.zeros(n, dtype=FP64) if bias is None else bias.reshape(-1).double()
    y = reference.forward(x, w, b, eps, centred=centred)
    slopes = reference.backward(dy, x, w, eps, centred=centred)
    h = reference.forward(x, torch.ones(n), torch.zeros(n), eps, centred=centred).abs()
    d = x - x.mean(1, keepdim=True) if centred else x
    r = (d.square().mean(1, keepdim=True) + eps).rsqrt()
    known = h + 1  # the error of h is measured against this
    if wide and centred:  # the mean is float64, and so are its terms
        known = known + x.mean(1, keepdim=True).abs() * r
    a = (dy * w).abs()
    lost = torch.zeros_like(h)
    if saved is not None:
        lost = torch.finfo(saved).eps / 2 * (h + b.abs() / w.abs())
    mean_a, mean_ah = a.mean(1, keepdim=True), (a * known).mean(1, keepdim=True)
    mean_lost = (a * lost).mean(1, keepdim=True)
    dy = dy.abs()
    judged = {
        "y": Judged(y, w.abs() * known + b.abs()),
        "dx": Judged(
            slopes.x,
            r * (a + mean_a + known * mean_ah),
            r * (lost * mean_ah + (h + lost) * mean_lost),
        ),
        "dweight": Judged(slopes.weight, (dy * known).sum(0), (dy * lost).sum(0)),
        "dbias": Judged(slopes.bias, dy.sum(0)),
    }
    over_rows = roundings + math.isqrt(len(x))
    return {
        name: each._replace(roundings=over_rows if name in ("dweight", "dbias") else roundings)
        for name, each in judged.items()
    }


def assert_judged(name: str, got: Tensor, judged: Judged) -> None:
    """Assert that the error is one that the dtype allows."""
    want, scale, loss, roundings = judged
    info = torch.finfo(got.dtype)
    unit = torch.finfo(FP64 if got.dtype == FP64 else FP32).eps
    floor = _FLOOR.get(got.dtype, info.tiny)
    found = got.double().reshape(want.shape).clamp(-info.max, info.max)  # infinity: too large
    error = (found - want.clamp(-info.max, info.max)).abs()
    allowed = want.abs() * (info.eps / 2) + roundings * unit * scale + loss + floor
    bad = ~(error <= allowed)  # so NaN counts as wrong
    if bad.any():
        worst = (error / allowed).nan_to_num(math.inf).argmax()
        raise AssertionError(
            f"{name}: {int(bad.sum())} of {bad.numel()} are off; worst at {int(worst)}: got "
            f"{got.reshape(-1)[worst]}, want {want.reshape(-1)[worst]}, "
            f"allowed error {allowed.reshape(-1)[worst]}"
        )


def assert_has_layout_of(x: Tensor, got: Tensor) -> None:
    """Assert that got has the shape, dtype and strides of `empty_like(x)`."""
    like = torch.empty_like(x)
    assert (got.shape, got.dtype, got.stride()) == (like.shape, like.dtype, like.stride())


def assert_new_layer_equals_torchs(ours: nn.Module, theirs: nn.Module, scale: float = 1.0) -> None:
    """Compare state dict, repr, output and gradients; inputs have the deviation `scale`."""
    initial = theirs.state_dict()
    assert list(ours.state_dict()) == list(initial)
    assert all(torch.equal(value, initial[name]) for name, value in ours.state_dict().items())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(initial)
    assert repr(ours) == repr(theirs)
    dtype = next((weight.dtype for weight in ours.parameters()), FP32)
    shape = (3, *ours.normalized_shape)
    results = []
    for layer in (ours, theirs):
        x = leaf(draw(shape, dtype, scale=scale))
        layer.zero_grad()
        y = layer(x)
        y.backward(draw(shape, dtype, 1))
        results.append([y.detach(), x.grad, *(weight.grad for weight in layer.parameters())])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6 * want.abs().max().item())


def check(
    kind: Kind,
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dims: int = 1,
    eps: float = 1e-5,
    save: Save = "input",
    dy: Tensor | None = None,
    threads: int = 1,
) -> dict[str, Tensor]:
    """Call `run` and check numbers, layout, and that no input was written to."""
    dy = draw(x.shape, x.dtype, 7) if dy is None else dy
    given = [tensor for tensor in (x, weight, bias, dy) if tensor is not None]
    before = [tensor.clone() for tensor in given]
    got = run(kind, x, weight, bias, dims=dims, eps=eps, save=save, dy=dy, threads=threads)
    assert all(map(torch.equal, given, before))
    assert_has_layout_of(x, got["y"])
    judged = equations(
        dy,
        x,
        weight,
        bias,
        dims=dims,
        eps=eps,
        centred=kind == "layer_norm",
        saved=x.dtype if save == "output" else None,
    )
    for name, value in got.items():
        assert_judged(name, value, judged[name])
    return got


def check_add(
    kind: Kind,
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dims: int = 1,
    eps: float = 1e-5,
    save: Save = "input",
    dropout: float = 0.0,
    dnormed: Tensor | None = None,
    dsummed: Tensor | None = None,
    threads: int = 1,
) -> dict[str, Tensor]:
    """The same for the add and the norm; the expected norm is that of the returned sum."""
    dnormed = draw(x.shape, x.dtype, 7) if dnormed is None else dnormed
    dsummed = draw(x.shape, residual.dtype, 8) if dsummed is None else dsummed
    given = [t for t in (x, residual, weight, bias, dnormed, dsummed) if t is not None]
    before = [tensor.clone() for tensor in given]
    names = ("x", "residual", "weight", "bias")
    leaves = dict(zip(names, map(leaf, (x, residual, weight, bias)), strict=True))
    torch.manual_seed(5)
    with on_threads(threads):
        normed, summed = apply_add(kind, *leaves.values(), dims, eps, save, dropout)
        torch.autograd.backward((normed, summed), (dnormed, dsummed))
    got = {"normed": normed.detach(), "summed": summed.detach()} | _gradients(leaves)
    assert all(map(torch.equal, given, before))
    assert_has_layout_of(x, normed)
    assert_has_layout_of(residual, summed)

    kept: Tensor | float = 1.0
    if dropout:
        torch.manual_seed(5)
        kept = keep_scale(x.shape, dims, dropout, draw_seed(x.device), FP64)
    dropped = x.double() * kept
    assert_judged(
        "summed",
        summed,
        Judged(residual.double() + dropped, residual.double().abs() + abs(dropped)),
    )
    judged = equations(
        dnormed,
        got["summed"],
        weight,
        bias,
        dims=dims,
        eps=eps,
        centred=kind == "layer_norm",
        saved=x.dtype if save == "output" else None,
    )
    direct = dsummed.reshape(judged["dx"].want.shape).double()
    want, scale, loss, roundings = judged["dx"]
    dsum = Judged(want + direct, scale + direct.abs(), loss, roundings)
    assert_judged("normed", got["normed"], judged["y"])
    assert_judged("dresidual", got["dresidual"], dsum)
    if dropout:
        kept = kept.reshape(want.shape)
        dsum = Judged(*(part * kept for part in dsum[:3]), roundings)
    assert_judged("dx", got["dx"], dsum)
    for name in {"dweight", "dbias"} & set(got):
        assert_judged(name, got[name], judged[name])
    return got
