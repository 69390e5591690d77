"""`LayerNorm`: y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, over the last dimensions."""

# No `from __future__ import annotations`: torch.fx stores the evaluated annotations of `forward`.
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from metronorm.norm.call import normalize
from metronorm.norm.checks import Save, checked_eps, checked_save, checked_shape

fx.wrap("checked_shape")
fx.wrap("normalize")


class LayerNorm(nn.LayerNorm):
    """Layer normalization (Ba, Kiros and Hinton, 2016, arXiv:1607.06450).

    It replaces `torch.nn.LayerNorm`: arguments, parameters and state dict are the same. Mean and
    biased variance are computed over the last dimensions, for every example separately; sums are
    float32 or better. The output has the dtype and memory layout of the input, also under autocast.

    Args:
        normalized_shape: size of the last dimension, or sizes of the last dimensions.
        eps: added to the variance, inside the root; finite and positive.
        elementwise_affine: learn `weight` (and `bias`).
        bias: learn `bias`; has no effect if `elementwise_affine` is False.
        device: where the parameters live.
        dtype: dtype of the parameters: the input's, or float32 beside a half-precision input.
        save: the tensor that the backward pass keeps, "input" or "output". The layer that follows
            mostly keeps the output anyway, so sharing it saves memory. The input is kept all the
            same if some weight is too small to divide by, and under `torch.compile`, `torch.func`
            and `torch.jit`.

    Raises:
        ConfigError: a size is below 1, `eps` is not positive, or `save` is unknown; when called,
            the input has a shape, dtype or device that does not fit the layer.
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
        return normalize(
            input,
            self.normalized_shape,
            self.weight,
            self.bias,
            self.eps,
            True,
            self.save == "output",
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
        weight: of shape `normalized_shape`; of x's dtype, or float32 beside a half-precision x.
        bias: as weight.
        eps: added to the variance.
        save: the tensor that the backward pass keeps, "input" or "output".

    Returns:
        The normalized x, of its shape, dtype and memory layout.
    """
    shape = checked_shape(normalized_shape)
    return normalize(x, shape, weight, bias, checked_eps(eps), True, checked_save(save))
