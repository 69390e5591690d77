"""Checks of the arguments of a normalization; each mistake raises one ConfigError."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from metronorm.errors import ConfigError
from metronorm.scalars import as_integer, as_real

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Save = Literal["input", "output"]

_HALF = (torch.bfloat16, torch.float16)
_DTYPES = (torch.float32, *_HALF, torch.float64)


def checked_shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """The sizes as a tuple.

    Raises:
        ConfigError: there is no size, or one is below 1 or not a whole number.
    """
    if type(normalized_shape) is int and normalized_shape > 0:
        return (normalized_shape,)  # the usual case, as every call of `layer_norm` comes here
    given: Any = normalized_shape
    many = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    many = many or getattr(given, "ndim", 0) == 1  # an array of sizes
    found = tuple(map(_as_size, given)) if many else (_as_size(given),)
    sizes = tuple(size for size in found if size is not None)
    if not sizes or len(sizes) < len(found) or min(sizes) < 1:
        raise ConfigError(
            "normalized_shape must hold sizes of at least 1",
            got=repr(tuple(given) if many else given),
            fix="the size of the last dimension, such as x.shape[-1]",
        )
    return sizes


def _as_size(value: Any) -> int | None:
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]  # it computes like an int
    if isinstance(value, torch.Tensor):
        with constant_sizes():
            return as_integer(value)
    return as_integer(value)


def checked_eps(eps: float) -> float:
    """`eps` as a float.

    Raises:
        ConfigError: it is not finite and positive.
    """
    number = as_real(eps)
    if number is None or not 0 < number < math.inf:  # torch.compile can trace this
        raise ConfigError("eps must be finite and positive", got=repr(eps), fix="1e-5")
    return number


def checked_dropout(dropout: float) -> float:
    """`dropout` as a float.

    Raises:
        ConfigError: it is below 0, or 1 or more, or not a number.
    """
    number = as_real(dropout)
    if number is None or not 0 <= number < 1:
        raise ConfigError("dropout must be at least 0 and below 1", got=repr(dropout), fix="0.1")
    return number


def checked_save(save: Save) -> bool:
    """Whether the output is what the backward pass keeps.

    Raises:
        ConfigError: `save` is neither "input" nor "output".
    """
    if save not in ("input", "output"):
        raise ConfigError('save must be "input" or "output"', got=repr(save), fix='save="input"')
    return save == "output"


def check_input(
    x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None
) -> None:
    """Check that x ends in `shape`, and that x, weight and bias fit together.

    Raises:
        ConfigError: a tensor is not dense, or has another shape, dtype or device than it must have.
    """
    if x.is_nested or x.layout != torch.strided:
        raise _not_dense("x", x)
    if x.shape[-len(shape) :] != shape:
        raise ConfigError(
            f"x must end in the normalized shape {shape}",
            got=f"x of shape {tuple(x.shape)}",
            fix="build the layer for x's last dimensions, or move those to the end",
        )
    dtype, device = x.dtype, x.device
    if dtype not in _DTYPES:
        raise ConfigError(
            "x must be float32, bfloat16, float16 or float64", got=str(dtype), fix="x.float()"
        )
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        if value.shape != shape:
            raise ConfigError(
                f"{name} must have the normalized shape {shape}", got=f"{tuple(value.shape)}"
            )
        if value.dtype is not dtype or value.device != device:
            _check_fit(name, value, x, fix="convert the layer, layer.to(x.dtype), or x")
    if weight is not None and bias is not None and weight.dtype is not bias.dtype:
        raise ConfigError(
            "weight and bias must be of one dtype",
            got=f"{weight.dtype} and {bias.dtype}",
            fix="convert the whole layer: layer.to(dtype)",
        )


@contextlib.contextmanager
def constant_sizes() -> Iterator[None]:
    """Inside the block `torch.jit.trace` does not warn that sizes become constants of the trace.

    Only the normalized sizes do. They are the sizes of the parameters, which a trace fixes anyway.
    """
    with warnings.catch_warnings(action="ignore", category=TracerWarning):
        yield


def check_residual(x: Tensor, residual: Tensor) -> None:
    """Check that residual has x's shape and device, and x's dtype or float32.

    Raises:
        ConfigError: it has not, or it is not dense.
    """
    if residual.is_nested or residual.layout != torch.strided:
        raise _not_dense("residual", residual)
    if x.shape != residual.shape:
        raise ConfigError(
            "x and residual must be of one shape",
            got=f"{tuple(x.shape)} and {tuple(residual.shape)}",
            fix="expand or reshape one of them first",
        )
    _check_fit("residual", residual, x, fix="x.to(residual.dtype)")


def _not_dense(name: str, value: Tensor) -> ConfigError:
    if value.is_nested:
        return ConfigError(
            f"{name} must be dense",
            got=f"a nested tensor ({value.layout})",
            fix=f"{name}.to_padded_tensor(0.0), or {name}.values(), the rows, if it is jagged",
        )
    return ConfigError(f"{name} must be dense", got=str(value.layout), fix=f"{name}.to_dense()")


def _check_fit(name: str, value: Tensor, x: Tensor, *, fix: str) -> None:
    dtype = value.dtype
    if dtype != x.dtype and not (dtype == torch.float32 and x.dtype in _HALF):
        raise ConfigError(
            f"{name} must be of x's dtype, or float32 beside a half-precision x",
            got=f"{name} {dtype}, x {x.dtype}",
            fix=fix,
        )
    if value.device != x.device:
        raise ConfigError(
            f"{name} must be on x's device",
            got=f"{name} on {value.device}, x on {x.device}",
            fix="move the model and its input to one device",
        )
