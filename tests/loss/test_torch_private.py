"""The parts of torch without a public name still behave as in torch 2.13, where they were read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import get_gradient_edge

from metronorm.loss import _torch_private


class Ask(torch.autograd.Function):
    """Notes in the backward pass what becomes of a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, answers: list[bool | None]) -> Tensor:
        ctx.node, ctx.answers = get_gradient_edge(weight).node, answers
        return x.sum() + weight.sum()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        ctx.answers.append(_torch_private.accumulates(ctx.node))
        return torch.zeros(3), torch.zeros(3), None


def test_what_becomes_of_a_gradient_is_known() -> None:
    x, weight = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    answers: list[bool | None] = []
    Ask.apply(x, weight, answers).backward()
    Ask.apply(x, weight, answers).backward(inputs=[weight])
    Ask.apply(x, weight, answers).backward(inputs=[x])
    torch.autograd.grad(Ask.apply(x, weight, answers), x)
    torch.autograd.grad(Ask.apply(x, weight, answers), weight)
    computed = 2 * weight
    torch.autograd.grad(Ask.apply(x, computed, answers), computed)
    Ask.apply(x, computed, answers).backward()
    assert answers == [True, True, False, False, None, True, True]


def test_hooks_are_found() -> None:
    weight = nn.Parameter(torch.ones(3))
    assert not _torch_private.hooks_before(weight)
    assert _torch_private.hooks_after(weight) == []
    handle = weight.register_hook(lambda gradient: gradient)

    def after(_: Tensor) -> None: ...

    other = weight.register_post_accumulate_grad_hook(after)
    assert _torch_private.hooks_before(weight)
    assert _torch_private.hooks_after(weight) == [after]
    handle.remove()
    other.remove()
    assert not _torch_private.hooks_before(weight)
    assert _torch_private.hooks_after(weight) == []


def test_transforms_are_seen() -> None:
    seen = []

    def note(x: Tensor) -> Tensor:
        seen.append(_torch_private.is_transformed())
        return x.sum()

    note(torch.ones(2))
    torch.func.grad(note)(torch.ones(2))
    torch.func.vmap(note)(torch.ones(2, 2))
    torch.func.jvp(note, (torch.ones(2),), (torch.ones(2),))
    with torch.autograd.forward_ad.dual_level():
        note(torch.ones(2))
    assert seen == [False, True, True, True, True]


def test_tensors_without_values_are_seen() -> None:
    assert not _torch_private.has_no_values(torch.ones(1))
    assert _torch_private.has_no_values(torch.ones(1, device="meta"))
    with FakeTensorMode():
        assert _torch_private.has_no_values(torch.ones(1))


def test_the_compiler_stays_out_of_a_function() -> None:
    seen = []

    @_torch_private.without_compiler
    def inner(x: Tensor) -> Tensor:
        seen.append(torch.compiler.is_compiling())
        return x + 1

    compiled = torch.compile(lambda x: inner(x * 2), backend="eager")
    assert compiled(torch.ones(1)) == 3
    assert seen == [False]
