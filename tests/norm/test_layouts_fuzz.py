"""Random shapes and memory layouts, compared with the equations."""

import math
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from metronorm.norm import LayerNorm2d
from tests.norm.inputs import (
    ADD_MIXES,
    AFFINE,
    FP32,
    KINDS,
    MIXES,
    SAVES,
    Kind,
    assert_judged,
    check,
    check_add,
    draw_affine,
    draw_x,
    equations,
    leaf,
)

FUZZ = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

sizes = st.one_of(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9), st.just(65))
positive = st.one_of(st.integers(1, 9), st.integers(1, 9), st.just(65))
seeds = st.integers(0, 1000)


@st.composite
def shapes(pick: Any) -> tuple[tuple[int, ...], int]:
    """A shape of at most about ten thousand elements, and the number of dimensions to normalize."""
    dims = pick(st.integers(1, 3))
    shape = pick(st.lists(sizes, max_size=4 - dims))
    shape += pick(st.lists(positive, min_size=dims, max_size=dims))
    while math.prod(shape) > 10_000:
        shape[shape.index(max(shape))] = 3
    return tuple(shape), dims


class Strided(NamedTuple):
    """A tensor with random strides; elements may share memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    seed: int

    def tensor(self, dtype: torch.dtype) -> Tensor:
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum(max(size - 1, 0) * stride for size, stride in steps)
        memory = draw_x((last + 1,), dtype, self.seed)
        return memory.as_strided(self.shape, self.strides, self.offset)


class Cut(NamedTuple):
    """A part of a larger tensor, with its dimensions in another order."""

    shape: tuple[int, ...]
    order: tuple[int, ...]  # of the dimensions, in memory
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    rest: int  # elements that are cut off from every dimension
    expanded: int | None  # a dimension of one element that is repeated
    seed: int

    def tensor(self, dtype: torch.dtype) -> Tensor:
        cuts, whole = [], []
        for size, start, step in zip(self.shape, self.starts, self.steps, strict=True):
            cuts.append(slice(start, start + step * size, step))
            whole.append(start + step * size + self.rest)
        if self.expanded is not None:
            cuts[self.expanded], whole[self.expanded] = slice(None), 1
        memory = draw_x(tuple(whole[at] for at in self.order), dtype, self.seed)
        turned = memory.permute([self.order.index(at) for at in range(len(self.shape))])
        return turned[tuple(cuts)].expand(self.shape)


def each(choices: st.SearchStrategy[int], count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[choices] * count)


def layouts(shape: tuple[int, ...]) -> st.SearchStrategy[Strided | Cut]:
    count = len(shape)
    here = st.just(shape)
    strided = st.builds(
        Strided, here, each(st.integers(0, 12), count), offset=st.integers(0, 5), seed=seeds
    )
    plain = st.builds(
        Cut,
        here,
        st.just(tuple(range(count))),
        each(st.just(0), count),
        each(st.just(1), count),
        rest=st.just(0),
        expanded=st.none(),
        seed=seeds,
    )
    cut = st.builds(
        Cut,
        here,
        st.permutations(range(count)).map(tuple),
        each(st.integers(0, 2), count),
        each(st.sampled_from([1, 1, 1, 2, 3]), count),
        rest=st.integers(0, 2),
        expanded=st.sampled_from([None, None, *range(count)]),
        seed=seeds,
    )
    return st.one_of(plain, cut, cut, strided)


class Affine(NamedTuple):
    """Weight and bias, or one of them, or none; every `step`-th element."""

    shape: tuple[int, ...]
    which: str
    step: int
    seed: int

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        *others, last = self.shape
        pair = draw_affine((*others, last * self.step), dtype, self.which, self.seed)
        return tuple(None if value is None else value[..., :: self.step] for value in pair)


def affines(shape: tuple[int, ...], kind: Kind) -> st.SearchStrategy[Affine]:
    which = AFFINE if kind == "layer_norm" else ("weight", "none")
    steps = st.sampled_from([1, 1, 2])
    return st.builds(Affine, st.just(shape), st.sampled_from(which), steps, seeds)


@FUZZ
@given(data=st.data())
def test_norm(backend: str, data: st.DataObject) -> None:
    pick = data.draw
    kind, dtypes = pick(st.sampled_from(KINDS)), pick(st.sampled_from(list(MIXES.values())))
    shape, dims = pick(shapes())
    check(
        kind,
        pick(layouts(shape)).tensor(dtypes.x),
        *pick(affines(shape[-dims:], kind)).tensors(dtypes.weight),
        dims=dims,
        eps=pick(st.sampled_from([1e-12, 1e-5, 0.5])),
        save=pick(st.sampled_from(SAVES)),
        dy=pick(layouts(shape)).tensor(dtypes.x),
    )


@FUZZ
@given(data=st.data())
def test_add_norm(backend: str, data: st.DataObject) -> None:
    pick = data.draw
    kind, dtypes = pick(st.sampled_from(KINDS)), pick(st.sampled_from(list(ADD_MIXES.values())))
    shape, dims = pick(shapes())
    check_add(
        kind,
        pick(layouts(shape)).tensor(dtypes.x),
        pick(layouts(shape)).tensor(dtypes.residual),
        *pick(affines(shape[-dims:], kind)).tensors(dtypes.weight),
        dims=dims,
        eps=pick(st.sampled_from([1e-5, 0.5])),
        save=pick(st.sampled_from(SAVES)),
        dropout=pick(st.sampled_from([0.0, 0.0, 0.3])),
        dnormed=pick(layouts(shape)).tensor(dtypes.x),
        dsummed=pick(layouts(shape)).tensor(dtypes.residual),
    )


@FUZZ
@given(data=st.data())
def test_layer_norm_2d(backend: str, data: st.DataObject) -> None:
    pick = data.draw
    shape = pick(st.tuples(sizes, positive, st.integers(0, 9), st.integers(0, 9)))
    x, dy = leaf(pick(layouts(shape)).tensor(FP32)), pick(layouts(shape)).tensor(FP32)
    layer = LayerNorm2d(shape[1], save=pick(st.sampled_from(SAVES)))
    y = layer(x)
    y.backward(dy)
    last = (0, 2, 3, 1)
    judged = equations(
        dy.permute(last),
        x.detach().permute(last),
        layer.weight.detach(),
        layer.bias.detach(),
        eps=1e-6,
        saved=x.dtype if layer.save == "output" else None,
    )
    assert_judged("y", y.detach().permute(last), judged["y"])
    assert_judged("dx", x.grad.permute(last), judged["dx"])
    assert_judged("dweight", layer.weight.grad, judged["dweight"])
    assert_judged("dbias", layer.bias.grad, judged["dbias"])
