"""`LayerNorm`: y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from metronorm.norm import operators
from metronorm.norm.checks import Save, check_input, checked_eps, checked_save, checked_shape
from metronorm.norm.output import can_save_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


class LayerNorm(nn.LayerNorm):
    """Layer normalization (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

    A drop-in for `torch.nn.LayerNorm`: same arguments, parameters and state dict. Mean and biased
    variance are those of the last dimensions of every single example; sums are float32 or better.
    The output has the dtype and memory layout of the input, under autocast too.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the variance, inside the root; finite and positive.
        elementwise_affine: learn `weight` (and `bias`).
        bias: learn `bias`; without effect where `elementwise_affine` is False.
        device: where the parameters live.
        dtype: of the parameters: the input's, or float32 beside a half-precision input.
        save: what the backward pass keeps, "input" or "output". The output is kept by what follows
            in any case, so that its sharing saves memory; the input is kept all the same where some
            weight is too small to divide by, and under `torch.compile` and `torch.func`.

    Raises:
        ConfigError: a size below 1, an `eps` that is not positive, an unknown `save`; when called,
            an input of another shape, dtype or device than the layer can take.
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
        save: Save = "input",
    ) -> None:
        sizes = list(checked_shape(normalized_shape))
        super().__init__(sizes, checked_eps(eps), elementwise_affine, bias, device, dtype)
        checked_save(save)
        self.save = save

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """Normalize input, (..., *normalized_shape)."""
        check_input(input, self.normalized_shape, self.weight, self.bias)
        return operators.norm(
            input,
            self.weight,
            self.bias,
            len(self.normalized_shape),
            self.eps,
            centred=True,
            save_output=self.save == "output" and can_save_output(self.weight, self.bias),
        )


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    save: Save = "input",
) -> Tensor:
    """`LayerNorm` as a function; arguments and errors are those of the class.

    Args:
        x: (..., *normalized_shape); float32, bfloat16, float16 or float64.
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        weight: `normalized_shape`, of x's dtype, or float32 beside a half-precision x.
        bias: like weight.
        eps: added to the variance.
        save: what the backward pass keeps.

    Returns:
        The normalized x, of its shape, dtype and memory layout.
    """
    shape = checked_shape(normalized_shape)
    check_input(x, shape, weight, bias)
    save_output = checked_save(save) and can_save_output(weight, bias)
    eps = checked_eps(eps)
    return operators.norm(x, weight, bias, len(shape), eps, centred=True, save_output=save_output)
