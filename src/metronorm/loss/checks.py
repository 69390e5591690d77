"""Checks of the arguments of the loss; each mistake raises one ConfigError."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.errors import ConfigError
from metronorm.scalars import as_integer, as_real

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # a target that does not count, as in torch
CHUNK_BYTES = 128 << 20  # of the logits that exist at once, unless `chunk` says otherwise

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Options(NamedTuple):
    """How the loss is computed; see `linear_cross_entropy`."""

    soft_cap: float | None
    label_smoothing: float
    z_loss: float
    scale: float
    chunk: int  # rows whose logits exist at once
    dtype: torch.dtype  # of logits, sums and results: float32, or float64 for float64 tensors
    bfloat16: bool  # whether products round what they multiply to bfloat16


def checked_options(
    features: Tensor,
    weight: Tensor,
    *,
    soft_cap: float | None,
    label_smoothing: float,
    z_loss: float,
    scale: float,
    chunk: int | None,
) -> Options:
    """The options as Python numbers, with what autocast says.

    Raises:
        ConfigError: a number that cannot be used.
    """
    cap, smoothing, z, factor = map(as_real, (soft_cap, label_smoothing, z_loss, scale))
    if soft_cap is not None and not (cap and 0 < cap < math.inf):
        raise ConfigError("soft_cap must be finite and above 0, or None", got=repr(soft_cap))
    if smoothing is None or not 0 <= smoothing <= 1:
        raise ConfigError("label_smoothing must be from 0 to 1", got=repr(label_smoothing))
    if z is None or not 0 <= z < math.inf:
        raise ConfigError("z_loss must be finite and at least 0", got=repr(z_loss), fix="1e-4")
    if factor is None or not math.isfinite(factor):
        raise ConfigError("scale must be a finite number", got=repr(scale), fix="scale=1.0")
    dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
    rows = CHUNK_BYTES // (dtype.itemsize * len(weight)) if chunk is None else as_integer(chunk)
    if rows is None or (rows < 1 and chunk is not None):
        raise ConfigError("chunk must be a number of rows of at least 1, or None", got=repr(chunk))
    bfloat16 = dtype == torch.float32 and _multiplies_in_bfloat16(features, weight)
    return Options(cap, smoothing, z, factor, max(1, rows), dtype, bfloat16)


def _multiplies_in_bfloat16(features: Tensor, weight: Tensor) -> bool:
    device = features.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device) == torch.bfloat16
    return features.dtype == weight.dtype == torch.bfloat16


def check_tensors(
    features: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, weights: Tensor | None
) -> None:
    """Check that the tensors fit together; their values are not looked at.

    Raises:
        ConfigError: a tensor has another shape, dtype or device than it must have, or `weights`
            requires a gradient.
    """
    named = {"features": features, "weight": weight, "targets": targets}
    named |= {"bias": bias} if bias is not None else {}
    named |= {"weights": weights} if weights is not None else {}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"{name} must be a tensor", got=type(value).__name__)
        if value.layout != torch.strided or value.is_nested:
            raise ConfigError(f"{name} must be dense", got=str(value.layout), fix=".to_dense()")
        if value.device != features.device:
            raise ConfigError(
                f"{name} must be on the device of the features, {features.device}",
                got=str(value.device),
            )
        if name in ("features", "weight", "bias") and value.dtype not in _DTYPES:
            raise ConfigError(
                f"{name} must be float32, bfloat16, float16 or float64", got=str(value.dtype)
            )
    if weight.ndim != 2 or not len(weight):
        raise ConfigError(
            "weight must be (vocabulary, width), with at least one row", got=_shape(weight)
        )
    if features.ndim == 0 or features.shape[-1] != weight.shape[1]:
        raise ConfigError(
            f"features must be (..., {weight.shape[1]}), as wide as the weight",
            got=_shape(features),
            fix="weight.T" if features.ndim and features.shape[-1] == len(weight) else None,
        )
    if targets.shape != features.shape[:-1]:
        raise ConfigError(
            f"targets must have the shape of the features without their width, "
            f"{tuple(features.shape[:-1])}",
            got=_shape(targets),
        )
    if targets.dtype.is_floating_point or targets.dtype in (torch.bool, torch.complex64):
        raise ConfigError("targets must be integers", got=str(targets.dtype), fix="targets.long()")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ConfigError(f"bias must be ({len(weight)},)", got=_shape(bias))
    if weights is None:
        return
    if weights.shape != targets.shape or weights.is_complex():
        raise ConfigError(
            f"weights must be real, one for each target, {tuple(targets.shape)}",
            got=f"{_shape(weights)}, {weights.dtype}",
        )
    if weights.requires_grad:
        raise ConfigError(
            "weights must be constants", got="requires_grad=True", fix="weights.detach()"
        )


def check_targets(targets: Tensor, vocabulary: int) -> None:
    """Check the targets that count, (rows,); on an accelerator this waits for the device.

    Raises:
        ConfigError: one of them is not in the vocabulary.
    """
    if not len(targets):
        return
    least, most = (value.item() for value in targets.aminmax())
    if least < 0 or most >= vocabulary:
        raise ConfigError(
            f"targets must be from 0 to {vocabulary - 1:,}, or {IGNORED}, which does not count",
            got=f"{least if least < 0 else most:,}",
            fix="the tokenizer of this model",
        )


def _shape(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}"
