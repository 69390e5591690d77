"""Whether convolutions in bf16 are right on this machine: those of a model, beside fp32.

torch's kernels for CPUs have had shapes for which a convolution in bf16 gave wrong numbers: one
channel and 2 x 2 pixels, or a stride of 3. A model that is trained with them learns less, and
nothing says why. So each convolution of the first batch is computed in both precisions from the
same numbers, forward and backward, before bf16 is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_ERROR = 2.0**-4  # rounding alone gives about 2**-8
_FUNCTIONS = {
    each: each.__name__
    for each in (
        torch.conv1d,
        torch.conv2d,
        torch.conv3d,
        torch.conv_transpose1d,
        torch.conv_transpose2d,
        torch.conv_transpose3d,
    )
}


@dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
        number: of different convolutions.
        error: the largest relative error of an output or a gradient.
        where: the convolution that has it; empty: there is no convolution.
    """

    number: int = 0
    error: float = 0.0
    where: str = ""

    @property
    def are_right(self) -> bool:
        """Whether bf16 may be used; a NaN is no small error."""
        return self.error <= LARGEST_ERROR

    def on_record(self) -> dict[str, Any]:
        """What the run's event `machine` has of it."""
        return {"convolutions": self.number, "convolution_error": self.error}


def check_convolutions(run: Callable[[], object]) -> Checked:
    """Compare every convolution that `run()` computes with itself in fp32."""
    with torch.no_grad(), _Noting() as noting:
        run()
    worst = Checked()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, (function, args, kwargs) in noting.found.items():
            error = _error(function, args, kwargs)
            if not worst.where or not error <= worst.error:
                worst = Checked(0, error, name)
    return Checked(len(noting.found), worst.error, worst.where)


class _Noting(TorchFunctionMode):
    """Keeps one call of each different convolution, by a name that says what differs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONS:
            sizes = ", ".join(_described(each) for each in (*args, *kwargs.values()))
            self.found.setdefault(f"{_FUNCTIONS[func]}({sizes})", (func, args, kwargs))
        return func(*args, **kwargs)


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return str(value)
    shape = " x ".join(map(str, value.shape))
    last = value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    return f"{shape} channels last" if last and not value.is_contiguous() else shape


def _error(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The largest relative error of bf16, by norms, over the output and the gradients."""
    results = []
    slope: torch.Tensor | None = None
    for dtype in (torch.bfloat16, torch.float32):
        leaves: list[torch.Tensor] = []

        def leaf(value: Any, dtype: torch.dtype = dtype, leaves: Any = leaves) -> Any:
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                return value
            # the same numbers in both, so that the kernels alone differ
            leaves.append(value.detach().bfloat16().to(dtype).requires_grad_())
            return leaves[-1]

        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            output = function(*map(leaf, args), **{name: leaf(x) for name, x in kwargs.items()})
            if slope is None:
                slope = torch.randn_like(output, dtype=torch.float32).bfloat16()
            output.backward(slope.to(dtype))
        results.append([output.detach(), *(each.grad for each in leaves)])
    errors: list[float] = [
        ((low.float() - high).norm() / high.norm().clamp(min=1e-30)).item()
        for low, high in zip(*results, strict=True)
        if low is not None and high is not None
    ]
    return max(errors, key=lambda error: (error != error, error))
