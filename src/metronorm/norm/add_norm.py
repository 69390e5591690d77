"""`AddLayerNorm` and `AddRMSNorm`: the residual add and the norm that follows it, in one pass.

A pre-norm block computes x = x + f(norm(x)). The same model can be written so that a norm first
adds the output of the sub-layer before it to the residual stream, and then normalizes the sum:

    normed, stream = norm(x, None)              # the first norm: nothing to add yet
    normed, stream = norm(f(normed), stream)    # every norm after it
"""

# No `from __future__ import annotations`: torch.fx stores the evaluated annotations of `forward`.
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from metronorm.norm.call import add_and_normalize, normalize
from metronorm.norm.checks import Save, checked_dropout, checked_eps, checked_save, checked_shape
from metronorm.norm.layer_norm import LayerNorm
from metronorm.norm.rms_norm import RMSNorm

fx.wrap("add_and_normalize")
fx.wrap("checked_shape")
fx.wrap("normalize")


class AddLayerNorm(LayerNorm):
    """`normed, summed = norm(x, residual)`: summed = residual + dropout(x), normed = its LayerNorm.

    `normed` has x's dtype and `summed` has residual's, so a float32 residual stream and
    half-precision sub-layers need no cast. The dropout keeps no mask: the backward pass draws it
    again from a seed, which comes from torch's generator. The state dict is that of
    `torch.nn.LayerNorm`.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the variance.
        elementwise_affine: learn `weight` (and `bias`).
        bias: learn `bias`.
        device: where the parameters live.
        dtype: dtype of the parameters: x's, or float32 beside a half-precision x.
        dropout: probability that an element of x is dropped during training; the other elements
            are scaled by 1 / (1 - dropout).
        save: what the backward pass keeps, as in `LayerNorm`.

    Raises:
        ConfigError: as `LayerNorm`; `dropout` is outside [0, 1); when called, x and residual
            have shapes, dtypes or devices that do not fit together.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dropout: float = 0.0,
        save: Save = "input",
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype, save=save)
        self.dropout = checked_dropout(dropout)
        self.fused = True

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(normed, summed) of x and residual, both (..., *normalized_shape).

        Without a residual, x is the start of the stream: the result is (norm(x), x), without
        dropout.
        """
        shape, save_output = self.normalized_shape, self.save == "output"
        if residual is None:
            return normalize(x, shape, self.weight, self.bias, self.eps, True, save_output), x
        return add_and_normalize(
            x,
            residual,
            shape,
            self.weight,
            self.bias,
            self.eps,
            True,
            save_output,
            self.dropout if self.training else 0.0,
            self.fused,
        )


class AddRMSNorm(RMSNorm):
    """`AddLayerNorm` with `RMSNorm`; the state dict is that of `torch.nn.RMSNorm`.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the mean square.
        elementwise_affine: learn `weight`.
        device: where the parameters live.
        dtype: dtype of the parameters.
        dropout: probability that an element of x is dropped during training.
        save: what the backward pass keeps.

    Raises:
        ConfigError: as `AddLayerNorm`.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = 1e-6,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        dropout: float = 0.0,
        save: Save = "input",
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, device, dtype, save=save)
        self.dropout = checked_dropout(dropout)
        self.fused = True

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(normed, summed) of x and residual, both (..., *normalized_shape).

        Without a residual, x is the start of the stream: the result is (norm(x), x), without
        dropout.
        """
        shape, save_output = self.normalized_shape, self.save == "output"
        if residual is None:
            return normalize(x, shape, self.weight, None, self.eps, False, save_output), x
        return add_and_normalize(
            x,
            residual,
            shape,
            self.weight,
            None,
            self.eps,
            False,
            save_output,
            self.dropout if self.training else 0.0,
            self.fused,
        )


def fuse_residuals(model: nn.Module, fused: bool = True) -> int:
    """Choose how the norms of a model add the residual: in one pass (the default) or separately.

    Both ways compute the same, up to rounding and to the elements that a dropout draws. Other
    libraries add separately; that way is there for comparison.

    Args:
        model: a module with any number of `AddLayerNorm` and `AddRMSNorm`.
        fused: one pass; otherwise torch's add and dropout, then the norm.

    Returns:
        The number of these layers.
    """
    layers = [each for each in model.modules() if isinstance(each, AddLayerNorm | AddRMSNorm)]
    for layer in layers:
        layer.fused = fused
    return len(layers)


def add_layer_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    dropout: float = 0.0,
    save: Save = "input",
) -> tuple[Tensor, Tensor]:
    """`AddLayerNorm` as a function; arguments and errors are those of the class.

    Args:
        x: (..., *normalized_shape).
        residual: a tensor of x's shape and dtype, or float32 beside a half-precision x.
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        weight: `normalized_shape`.
        bias: `normalized_shape`.
        eps: added to the variance.
        dropout: probability that an element of x is dropped; there is no evaluation mode here.
        save: what the backward pass keeps.

    Returns:
        `normed`, of x's dtype, and `summed`, of residual's.
    """
    return add_and_normalize(
        x,
        residual,
        checked_shape(normalized_shape),
        weight,
        bias,
        checked_eps(eps),
        True,
        checked_save(save),
        checked_dropout(dropout),
        True,
    )


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = 1e-6,
    *,
    dropout: float = 0.0,
    save: Save = "input",
) -> tuple[Tensor, Tensor]:
    """`AddRMSNorm` as a function; arguments, errors and result are those of `add_layer_norm`."""
    return add_and_normalize(
        x,
        residual,
        checked_shape(normalized_shape),
        weight,
        None,
        None if eps is None else checked_eps(eps),
        False,
        checked_save(save),
        checked_dropout(dropout),
        True,
    )
