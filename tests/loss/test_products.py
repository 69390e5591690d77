"""Products have float32 results, also of what is rounded to bfloat16."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metronorm.loss import linear_cross_entropy
from metronorm.loss.products import multiply
from tests.loss.inputs import far

SIZES = [(1, 1, 1), (64, 96, 80), (3, 0, 5), (0, 4, 5), (256, 640, 130)]


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products(sizes: tuple[int, int, int], add: bool, bfloat16: bool) -> None:
    n, k, m = sizes
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(k, n, generator=draw).T, torch.randn(m, k, generator=draw).T
    whole = torch.ones(n, m + 2)
    out = whole[:, 1:-1]
    multiply(a, b, out=out, add=add, bfloat16=bfloat16)
    want = a.double() @ b.double() + add
    assert (whole[:, 0] == 1).all()
    assert (whole[:, -1] == 1).all()
    if want.numel():
        assert float((out - want).norm()) <= (5e-3 if bfloat16 else 1e-6) * float(want.norm() + 1)


def test_a_result_of_bfloat16_products_is_not_rounded_to_bfloat16() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 64, generator=draw), torch.randn(64, 512, generator=draw)
    exact = a.bfloat16().double() @ b.bfloat16().double()
    out = torch.empty(256, 512)
    multiply(a, b, out=out, bfloat16=True)
    if torch.equal(out, a @ b):
        pytest.skip("this CPU has no products of bfloat16")
    assert far(out, exact) < 1e-6
    assert far((a.bfloat16() @ b.bfloat16()).float(), exact) > 1e-3


def test_the_setting_of_the_process_is_as_it_was() -> None:
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    a = torch.zeros(2, 2)
    multiply(a, a, out=torch.empty(2, 2), bfloat16=True)
    with pytest.raises(RuntimeError):
        multiply(a, torch.zeros(3, 3), out=torch.empty(2, 2), bfloat16=True)
    assert matmul.fp32_precision == before


class Shapes(TorchDispatchMode):
    """The shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[tuple[int, ...], ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mm" in func.__name__:
            self.found.add(tuple(tuple(each.shape) for each in args if isinstance(each, Tensor)))
        return func(*args, **(kwargs or {}))


def test_products_in_bfloat16_have_few_shapes() -> None:
    """For each new one kernels are built on a CPU."""
    weight = torch.randn(90, 8).bfloat16().requires_grad_()
    with Shapes() as shapes:
        for count in range(1, 100):
            features = torch.randn(100, 8).bfloat16().requires_grad_()
            targets = torch.full((100,), -100)
            targets[torch.randperm(100)[:count]] = torch.randint(90, (count,))
            linear_cross_entropy(features, weight, targets).backward()
            assert features.grad is not None
            assert int((features.grad != 0).any(1).sum()) == count
    rows = {shape[0][0] for shape in shapes.found if shape[0][1] == 8}
    assert rows == {32, 64, 96, 128}
