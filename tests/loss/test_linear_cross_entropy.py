"""The loss and its gradients beside the equations in float64."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metronorm.loss import linear_cross_entropy
from metronorm.loss.checks import CHUNK_BYTES
from tests.loss.inputs import WIDTH, case, far

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "weights": {"weights": True},
    "cap": {"soft_cap": 2.0},
    "smoothing": {"label_smoothing": 0.2},
    "only smoothing": {"label_smoothing": 1.0},
    "z": {"z_loss": 0.05},
    "scale": {"scale": 0.3},
    "all": {
        "bias": True,
        "weights": True,
        "soft_cap": 3.0,
        "label_smoothing": 0.1,
        "z_loss": 0.01,
        "scale": -1.7,
    },
}
ROUNDING = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
CHUNKS = [1, 5, None]


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradients_are_the_equations(
    name: str, chunk: int | None, dtype: torch.dtype
) -> None:
    given = case(dtype=dtype, chunk=chunk, **OPTIONS[name])
    want = given.want()
    loss = given.loss()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (0.5 * loss).backward()
    # float16 and bfloat16 are rounded when they are inputs and results, and nowhere else
    assert far(loss, want.loss) < min(ROUNDING[dtype], 1e-5)
    assert far(given.features.grad, 0.5 * want.features) < ROUNDING[dtype]
    assert far(given.weight.grad, 0.5 * want.weight) < ROUNDING[dtype]
    if given.bias is not None:
        assert far(given.bias.grad, 0.5 * want.bias) < ROUNDING[dtype]


@pytest.mark.parametrize("chunk", [64, None])
def test_autocast_keeps_logits_and_sums_in_float32(chunk: int | None) -> None:
    """torch rounds the logits and the weight's gradient to bfloat16; here that is an error less."""
    given = case(256, vocabulary=640, width=128, chunk=chunk)
    with torch.no_grad():
        given.features.mul_(0.5)
    want, rows = given.want(), given.features.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = given.loss()
        assert loss.dtype == torch.float32
    loss.backward()
    ours = far(given.weight.grad, want.weight), far(given.features.grad, want.features)
    plain = nn.Parameter(given.weight.detach().clone())
    with torch.autocast("cpu", torch.bfloat16):
        logits = nn.functional.linear(rows, plain)
    nn.functional.cross_entropy(
        logits.float().flatten(0, 1), given.targets.flatten(), reduction="sum"
    ).backward()
    theirs = far(plain.grad, want.weight), far(rows.grad, want.features)
    assert max(ours) < 0.01
    assert ours[0] < theirs[0]
    assert ours[1] < theirs[1]


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_float64(autocast: torch.dtype) -> None:
    given = case(dtype=torch.float64)
    with torch.autocast("cpu", autocast):
        loss = given.loss()
        loss.backward()  # autocast is on in this backward pass
    assert far(loss, given.want().loss) < 1e-14
    assert far(given.weight.grad, given.want().weight) < 1e-14


@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_may_differ(features: torch.dtype, weight: torch.dtype) -> None:
    given = case(chunk=5)
    given.features = given.features.detach().to(features).requires_grad_()
    given.weight = nn.Parameter(given.weight.detach().to(weight))
    want = given.want()
    given.loss().backward()
    assert given.features.grad is not None
    assert given.features.grad.dtype == features
    assert given.weight.grad is not None
    assert given.weight.grad.dtype == weight
    assert far(given.features.grad, want.features) < ROUNDING[features] * 2
    assert far(given.weight.grad, want.weight) < ROUNDING[torch.bfloat16]


@pytest.mark.parametrize("chunk", CHUNKS)
def test_rows_that_do_not_count_may_be_anything(chunk: int | None) -> None:
    given = case(weights=True, label_smoothing=0.1, chunk=chunk)
    want = given.want()
    assert given.weights is not None
    out = (given.targets == -100) | (given.weights == 0)
    assert 1 < out.sum() < out.numel()
    with torch.no_grad():
        given.features[out] = math.nan
    given.loss().backward()
    assert given.features.grad is not None
    assert not given.features.grad[out].any()
    assert far(given.features.grad, want.features) < 2e-6
    assert far(given.weight.grad, want.weight) < 2e-6


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_row_with_nan_makes_all_nan(chunk: int | None) -> None:
    given = case(chunk=chunk)
    with torch.no_grad():
        given.features[0, 0, 0] = math.nan
    loss = given.loss()
    loss.backward()
    assert loss.isnan()
    assert given.weight.grad is not None
    assert given.weight.grad.isnan().all()


def test_large_logits_do_not_overflow() -> None:
    given = case(chunk=5, scale=100.0)
    want, loss = given.want(), given.loss()
    loss.backward()
    assert loss > 1000
    assert far(loss, want.loss) < 1e-6
    assert far(given.weight.grad, want.weight) < 1e-4  # float32 has 4 digits after such a point


def test_an_entry_that_a_bias_excludes_gets_no_gradient() -> None:
    given = case(bias=True, chunk=5)
    assert given.bias is not None
    with torch.no_grad():
        given.bias[3] = -math.inf
        given.targets[given.targets == 3] = 4
    loss = given.loss()
    loss.backward()
    assert loss.isfinite()
    assert given.weight.grad is not None
    assert given.weight.grad.isfinite().all()
    assert not given.weight.grad[3].any()


@pytest.mark.parametrize("rows", [0, 14])
def test_nothing_that_counts_is_a_loss_of_zero(rows: int) -> None:
    given = case(rows)
    given.targets.fill_(-100)
    loss = given.loss()
    loss.backward()
    assert loss == 0
    for grad in (given.features.grad, given.weight.grad):
        assert grad is not None
        assert not grad.any()


def test_one_row_needs_no_batch() -> None:
    features, weight = torch.randn(8, requires_grad=True), torch.randn(5, 8)
    loss = linear_cross_entropy(features, weight, torch.tensor(3))
    want = nn.functional.cross_entropy(weight @ features, torch.tensor(3))
    torch.testing.assert_close(loss, want)


@pytest.mark.parametrize("chunk", [5, None])
@pytest.mark.parametrize(
    "frozen", [each for n in range(4) for each in itertools.combinations("fwb", n)]
)
def test_what_is_frozen_gets_no_gradient(frozen: tuple[str, ...], chunk: int | None) -> None:
    given = case(bias=True, chunk=chunk)
    want = given.want()
    assert given.bias is not None
    tensors = {"f": given.features, "w": given.weight, "b": given.bias}
    wanted = {"f": want.features, "w": want.weight, "b": want.bias}
    for name in frozen:
        tensors[name].requires_grad_(False)
    loss = given.loss()
    assert far(loss, want.loss) < 1e-6
    assert loss.requires_grad == (len(frozen) < 3)
    if loss.requires_grad:
        loss.backward()
    for name, tensor in tensors.items():
        if name in frozen:
            assert tensor.grad is None
        else:
            assert far(tensor.grad, wanted[name]) < 2e-6


def test_evaluation_keeps_no_graph() -> None:
    given = case(chunk=5)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            loss = given.loss()
        assert not loss.requires_grad
        assert far(loss, given.want().loss) < 1e-6


def test_a_chunk_has_as_many_rows_as_fit() -> None:
    from metronorm.loss.checks import checked_options

    weight = torch.empty(50_257, 1)
    names = {"soft_cap": None, "label_smoothing": 0, "z_loss": 0, "scale": 1, "chunk": None}
    rows = checked_options(torch.empty(1, 1), weight, **names).chunk
    assert rows * 4 * 50_257 <= CHUNK_BYTES < (rows + 1) * 4 * 50_257


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 24),
    chunk=st.integers(1, 30),
    vocabulary=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    smoothing=st.sampled_from([0.0, 0.3]),
    cap=st.sampled_from([None, 1.5]),
    z_loss=st.sampled_from([0.0, 0.1]),
)
def test_any_division_into_beats_and_chunks_is_the_same_sum(
    rows: int,
    chunk: int,
    vocabulary: int,
    seed: int,
    smoothing: float,
    cap: float | None,
    z_loss: float,
) -> None:
    given_case = case(
        2 * rows,
        dtype=torch.float64,
        seed=seed,
        vocabulary=vocabulary,
        weights=True,
        label_smoothing=smoothing,
        soft_cap=cap,
        z_loss=z_loss,
        chunk=chunk,
    )
    want = given_case.want()
    x, weight = given_case.features, given_case.weight
    loss = torch.zeros(()).double()
    assert given_case.weights is not None
    for half in range(2):  # two beats, whose gradients are added up
        part = linear_cross_entropy(
            x[half],
            weight,
            given_case.targets[half],
            weights=given_case.weights[half],
            **given_case.options,
        )
        part.backward()
        loss += part.detach()
    assert weight.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(loss, want.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weight.grad, want.weight, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(x.grad, want.features, rtol=1e-11, atol=1e-12)


def test_layouts_of_tensors_do_not_matter() -> None:
    given = case(chunk=5)
    want = given.want()
    x = given.features.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    weight = nn.Parameter(given.weight.detach().T.contiguous().T)
    assert not x.is_contiguous()
    assert not weight.is_contiguous()
    for _ in range(2):
        linear_cross_entropy(x, weight, given.targets.int(), chunk=5).backward()
    assert x.shape[-1] == WIDTH
    assert far(x.grad, 2 * want.features) < 2e-6
    assert far(weight.grad, 2 * want.weight) < 2e-6
