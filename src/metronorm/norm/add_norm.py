"""`AddLayerNorm` and `AddRMSNorm`: the residual add and the norm that follows it, in one pass.

A pre-norm block is x = x + f(norm(x)). Turned by half a step, every sub-layer's output meets the
residual stream where the next norm reads it:

    normed, stream = norm(x, None)
    normed, stream = norm(f(normed), stream)    # again and again
"""

# Annotations are evaluated here: those of `forward` are stored by torch.fx.
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

    `normed` has x's dtype and `summed` residual's, so that a float32 residual stream runs beside
    half-precision sub-layers without a cast. The dropout keeps no mask: backward draws it again
    from a seed, which comes from torch's generator. State dict as `torch.nn.LayerNorm`.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the variance.
        elementwise_affine: learn `weight` (and `bias`).
        bias: learn `bias`.
        device: where the parameters live.
        dtype: of the parameters: x's, or float32 beside a half-precision x.
        dropout: probability of an element of x to be dropped while training, the rest being scaled
            by 1 / (1 - dropout).
        save: what the backward pass keeps, as in `LayerNorm`.

    Raises:
        ConfigError: as `LayerNorm`; a `dropout` outside [0, 1); shapes, dtypes or devices of x and
            residual that do not go together.
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

        Without a residual x begins the stream: (norm(x), x), and nothing is dropped.
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
    """`AddLayerNorm` with `RMSNorm`; state dict as `torch.nn.RMSNorm`.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the mean square.
        elementwise_affine: learn `weight`.
        device: where the parameters live.
        dtype: of the parameters.
        dropout: probability of an element of x to be dropped while training.
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

        Without a residual x begins the stream: (norm(x), x), and nothing is dropped.
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
    """Let the residual adds of a model be part of its norms, as they are at first, or separate.

    Both compute the same up to rounding and to what a dropout draws; apart, they are what other
    libraries do, for comparison.

    Args:
        model: with any number of `AddLayerNorm` and `AddRMSNorm`.
        fused: one pass; otherwise torch's add and dropout, then the norm.

    Returns:
        How many layers that concerned.
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
        residual: of x's shape and dtype, or float32 beside a half-precision x.
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        weight: `normalized_shape`.
        bias: `normalized_shape`.
        eps: added to the variance.
        dropout: applied whenever it is above 0.
        save: what the backward pass keeps.

    Returns:
        normed, of x's dtype, and summed, of residual's.
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
