"""Matrix products whose results are float32 or better, whatever they multiply.

| what is multiplied | on a CPU | on CUDA | on other devices |
| --- | --- | --- | --- |
| float64, float32 | as it is | as it is | as it is |
| rounded to bfloat16 | float32; oneDNN rounds | bfloat16, float32 out | bfloat16, converted |

On a CPU without instructions for bfloat16, oneDNN multiplies float32 tensors as they are.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

STEP = 32
"""Of what rows are made a multiple, where products on a CPU are rounded to bfloat16: for each new
shape oneDNN builds kernels, which takes as long as several products, and memory that stays."""


def multiply(
    a: Tensor, b: Tensor, *, out: Tensor, bfloat16: bool = False, add: bool = False
) -> None:
    """`out = a @ b`, or with `add` `out += a @ b`.

    Args:
        a: (n, k), of the dtype of `out`.
        b: (k, m), of the dtype of `out`.
        out: (n, m), float32 or float64; written in place.
        bfloat16: whether a and b are rounded to bfloat16 before. Products are added in float32.
        add: whether to add to what is in `out`.
    """
    if not bfloat16:
        _multiply(a, b, out, add)
    elif out.device.type == "cpu":
        with _rounding_inside():
            _multiply(a, b, out, add)
    else:
        a, b = a.bfloat16(), b.bfloat16()
        if out.device.type == "cuda":
            product = torch.mm(a, b, out_dtype=torch.float32)
        else:
            product = torch.mm(a, b).float()
        if add:
            out.add_(product)
        else:
            out.copy_(product)


def _multiply(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    if add:
        out.addmm_(a, b)
    else:
        torch.mm(a, b, out=out)


@contextlib.contextmanager
def _rounding_inside() -> Iterator[None]:
    """Let products of float32 tensors on a CPU round to bfloat16 inside of oneDNN."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
