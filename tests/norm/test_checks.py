"""Every mistake raises a ConfigError that says what must hold and what arrived."""

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metronorm.errors import ConfigError
from metronorm.norm import (
    AddLayerNorm,
    AddRMSNorm,
    LayerNorm,
    LayerNorm2d,
    RMSNorm,
    add_layer_norm,
    add_rms_norm,
    kernels,
    layer_norm,
    layer_norm_2d,
    rms_norm,
)
from tests.norm.inputs import BF16, FP16, FP32, FP64, draw_x

MODULES: list[Any] = [LayerNorm, RMSNorm, AddLayerNorm, AddRMSNorm, LayerNorm2d]
OPS = torch.ops.metronorm


def refused(call: Callable[[], Any], *parts: str) -> None:
    """Expect a ConfigError with all these parts, in this order."""
    with pytest.raises(ConfigError) as caught:
        call()
    text = str(caught.value)
    at = 0
    for part in parts:
        assert part in text[at:], (part, text)
        at = text.index(part, at) + len(part)
    assert "got" in text
    assert "\n" not in text


def ones(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


# Arguments of a layer -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", MODULES)
@pytest.mark.parametrize("shape", [0, -3, (), [], (4, 0), True, 2.5, "4", None, (4, 2.0), b"4"])
def test_sizes_below_one_are_refused(layer: Any, shape: Any) -> None:
    got = "()" if shape == [] else repr(shape)[:2]
    refused(lambda: layer(shape), "normalized_shape must hold sizes of at least 1", f"got {got}")


@pytest.mark.parametrize("layer", MODULES)
@pytest.mark.parametrize("size", [np.int64(4), np.uint8(4), torch.tensor(4), [np.int32(4)]])
def test_sizes_may_be_numbers_of_other_libraries(layer: Any, size: Any) -> None:
    made = layer(size, np.float32(0.25))
    assert made.normalized_shape == (4,)
    assert type(made.normalized_shape[0]) is int
    assert (type(made.eps), made.eps) == (float, 0.25)


def test_functions_accept_numbers_of_other_libraries() -> None:
    x, eps = draw_x((2, 3, 4)), np.float16(0.25)
    for shape in (np.array([3, 4]), torch.tensor([3, 4]), x.shape[1:], [np.int8(3), 4]):
        assert torch.equal(layer_norm(x, shape, eps=eps), layer_norm(x, (3, 4), eps=0.25))
        assert torch.equal(rms_norm(x, shape, eps=eps), rms_norm(x, (3, 4), eps=0.25))
    for dropout in (np.float64(0), np.int64(0), Fraction(0)):
        for apply in (add_layer_norm, add_rms_norm):
            assert torch.equal(apply(x, x, 4, dropout=dropout)[0], apply(x, x, 4)[0])


@pytest.mark.parametrize("layer", MODULES)
@pytest.mark.parametrize("eps", [0, 0.0, -1e-5, math.nan, math.inf, True, "1e-5", np.float32(-1)])
def test_eps_must_be_finite_and_positive(layer: Any, eps: Any) -> None:
    refused(lambda: layer(4, eps), "eps must be finite and positive", f"got {eps!r}")


@pytest.mark.parametrize("layer", [LayerNorm, AddLayerNorm, LayerNorm2d])
def test_only_rms_norms_accept_eps_none(layer: Any) -> None:
    refused(lambda: layer(4, None), "eps must be finite and positive", "got None")


@pytest.mark.parametrize("layer", MODULES)
@pytest.mark.parametrize("save", ["both", "", None, True])
def test_save_must_be_known(layer: Any, save: Any) -> None:
    refused(lambda: layer(4, save=save), 'save must be "input" or "output"', repr(save))


def test_sparse_input_is_refused() -> None:
    refused(lambda: layer_norm(ones(2, 4).to_sparse(), 4), "x must be dense", "torch.sparse_coo")


@pytest.mark.parametrize("layer", [AddLayerNorm, AddRMSNorm])
@pytest.mark.parametrize("dropout", [1.0, 1, -0.1, math.nan, True, "0.1", None])
def test_dropout_must_be_at_least_0_and_below_1(layer: Any, dropout: Any) -> None:
    message = "dropout must be at least 0 and below 1"
    refused(lambda: layer(4, dropout=dropout), message, f"got {dropout!r}")
    apply = add_layer_norm if layer is AddLayerNorm else add_rms_norm
    refused(lambda: apply(ones(2, 4), ones(2, 4), 4, dropout=dropout), message)


@pytest.mark.parametrize(
    "call",
    [
        lambda **options: layer_norm(ones(2, 4), 4, **options),
        lambda **options: rms_norm(ones(2, 4), 4, **options),
        lambda **options: add_layer_norm(ones(2, 4), ones(2, 4), 4, **options),
        lambda **options: add_rms_norm(ones(2, 4), ones(2, 4), 4, **options),
        lambda **options: layer_norm_2d(ones(2, 4, 3, 3), **options),
    ],
)
def test_functions_check_the_same(call: Any) -> None:
    for eps in (0.0, -1.0, math.nan, math.inf):
        refused(lambda eps=eps: call(eps=eps), "eps must be finite and positive", repr(eps))
    refused(lambda: call(save="nothing"), 'save must be "input" or "output"', "nothing")


@pytest.mark.parametrize("apply", [layer_norm, rms_norm])
@pytest.mark.parametrize("shape", [0, (), (4, 0), None])
def test_functions_check_sizes(apply: Any, shape: Any) -> None:
    refused(lambda: apply(ones(2, 4), shape), "sizes of at least 1", repr(shape)[:2])


# Inputs of a layer --------------------------------------------------------------------------------

Call = Callable[[Tensor], Any]


def calls(shape: Any, dtype: torch.dtype = FP32) -> list[Call]:
    """All four norms over the last dimensions, with parameters of one dtype."""
    adding = [AddLayerNorm(shape, dtype=dtype), AddRMSNorm(shape, dtype=dtype)]
    return [
        LayerNorm(shape, dtype=dtype),
        RMSNorm(shape, dtype=dtype),
        lambda x: adding[0](x, torch.zeros_like(x)),
        lambda x: adding[1](x, torch.zeros_like(x)),
        lambda x: layer_norm(x, shape),
        lambda x: rms_norm(x, shape),
    ]


@pytest.mark.parametrize("call", calls(4))
@pytest.mark.parametrize("shape", [(2, 3), (4, 3), (2, 1), (), (0,), (4, 0)])
def test_trailing_shape(call: Call, shape: tuple[int, ...]) -> None:
    refused(lambda: call(ones(*shape)), "x must end in the normalized shape (4,)", str(shape))


@pytest.mark.parametrize("call", calls((3, 4)))
@pytest.mark.parametrize("shape", [(4,), (2, 4), (4, 3), (3, 4, 4)])
def test_trailing_shapes(call: Call, shape: tuple[int, ...]) -> None:
    refused(lambda: call(ones(*shape)), "x must end in the normalized shape (3, 4)", str(shape))


@pytest.mark.parametrize("call", calls(4))
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_numbers_that_are_not_real(call: Call, dtype: torch.dtype) -> None:
    x = torch.zeros(2, 4, dtype=dtype)
    refused(lambda: call(x), "x must be float32, bfloat16, float16 or float64", str(dtype))


CANNOT_BE_MIXED = [(FP32, BF16), (FP32, FP16), (FP32, FP64), (FP64, FP32), (BF16, FP16)]


@pytest.mark.parametrize(("x", "weight"), [*CANNOT_BE_MIXED, (BF16, FP64), (FP64, BF16)])
def test_parameters_of_a_dtype_that_does_not_fit_x(x: torch.dtype, weight: torch.dtype) -> None:
    for call in calls(4, weight)[:4]:
        refused(
            lambda call=call: call(ones(2, 4, dtype=x)), "weight must be of x's", f"{weight}, x {x}"
        )
    bias = ones(4, dtype=weight)
    refused(
        lambda: layer_norm(ones(2, 4, dtype=x), 4, None, bias), "bias must be", f"{weight}, x {x}"
    )


def test_weight_and_bias_of_two_dtypes() -> None:
    x, narrow, wide = ones(2, 4, dtype=BF16), ones(4, dtype=BF16), ones(4)
    message = "weight and bias must be of one dtype"
    refused(lambda: layer_norm(x, 4, narrow, wide), message, f"{BF16} and {FP32}")
    refused(lambda: layer_norm(x, 4, wide, narrow), message, f"{FP32} and {BF16}")
    refused(lambda: add_layer_norm(x, x, 4, wide, narrow), message, f"{FP32} and {BF16}")
    image = ones(2, 4, 3, 3, dtype=BF16)
    refused(lambda: layer_norm_2d(image, wide, narrow), message, f"{FP32} and {BF16}")


@pytest.mark.parametrize("shape", [(3,), (1,), (), (1, 4), (4, 4)])
def test_parameters_of_another_shape(shape: tuple[int, ...]) -> None:
    x, wrong, right = ones(2, 4), ones(*shape), ones(4)
    for name, pair in (("weight", (wrong, None)), ("bias", (right, wrong))):
        message = f"{name} must have the normalized shape (4,)"
        refused(lambda pair=pair: layer_norm(x, 4, *pair), message, str(shape))
        refused(lambda pair=pair: add_layer_norm(x, x, 4, *pair), message, str(shape))
    refused(lambda: rms_norm(x, 4, wrong), "weight must have the normalized shape", str(shape))


def test_another_device() -> None:
    here, away = ones(2, 4), ones(2, 4).to("meta")
    message = "weight must be on x's device"
    for layer in (LayerNorm(4, device="meta"), RMSNorm(4, device="meta")):
        refused(lambda layer=layer: layer(here), message, "weight on meta", "x on cpu")
    for layer in (LayerNorm(4), RMSNorm(4)):
        refused(lambda layer=layer: layer(away), message, "weight on cpu", "x on meta")
    message = "bias must be on x's device"
    refused(lambda: layer_norm(here, 4, None, away[0]), message, "bias on meta", "x on cpu")
    message = "residual must be on x's device"
    for apply in (add_layer_norm, add_rms_norm):
        refused(lambda apply=apply: apply(here, away, 4), message, "on meta", "x on cpu")
        refused(lambda apply=apply: apply(away, here, 4), message, "on cpu", "x on meta")


@pytest.mark.parametrize("apply", [add_layer_norm, add_rms_norm])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4), (2, 1), (1, 2, 4), (2, 3)])
def test_residual_of_another_shape(apply: Any, shape: tuple[int, ...]) -> None:
    message = "x and residual must be of one shape"
    refused(lambda: apply(ones(2, 4), ones(*shape), 4), message, "(2, 4)", str(shape))


@pytest.mark.parametrize("apply", [add_layer_norm, add_rms_norm])
@pytest.mark.parametrize(
    ("x", "residual"), [*CANNOT_BE_MIXED, (BF16, FP64), (BF16, torch.int64), (FP32, torch.bool)]
)
def test_residual_of_another_dtype(apply: Any, x: torch.dtype, residual: torch.dtype) -> None:
    given = ones(2, 4, dtype=x), torch.zeros(2, 4, dtype=residual)
    message = "residual must be of x's dtype, or float32 beside a half-precision x"
    refused(lambda: apply(*given, 4), message, f"residual {residual}, x {x}")


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (4, 3, 3), (2, 4, 3, 3, 3)])
def test_images_have_four_dimensions(shape: tuple[int, ...]) -> None:
    message = "an image batch has four dimensions"
    refused(lambda: LayerNorm2d(4)(ones(*shape)), message, str(shape))
    refused(lambda: layer_norm_2d(ones(*shape)), message, str(shape))


def test_images_of_other_channels() -> None:
    refused(lambda: LayerNorm2d(4)(ones(2, 3, 4, 4)), "must end in the normalized shape (4,)", "3)")
    weight = ones(5)
    refused(lambda: layer_norm_2d(ones(2, 4, 3, 3), weight), "weight must have", "(4,)", "(5,)")


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_the_error_for_a_nested_tensor_says_what_to_do(layout: torch.layout) -> None:
    with warnings.catch_warnings(action="ignore"):  # nested tensors are a prototype
        nested = torch.nested.nested_tensor([ones(2, 4), ones(3, 4)], layout=layout)
        padded = nested.to_padded_tensor(0.0)
    for call in calls(4)[:2]:
        refused(lambda call=call: call(nested), "x must be dense", "nested", "x.to_padded_tensor(")
    message = "residual must be dense"
    refused(lambda: add_layer_norm(padded, nested, 4), message, "residual.to_padded_tensor(0.0)")
    refused(lambda: add_rms_norm(padded, padded.to_sparse(), 4), message, "residual.to_dense()")


# The operators, called directly, without the checks -----------------------------------------------

X, W = ones(3, 4), ones(4)
STATS = ones(3, 2, dtype=FP64)
SEED = torch.tensor(7)


def norm(x: Any = X, weight: Any = W, bias: Any = W, dims: int = 1) -> Any:
    return OPS.norm(x, weight, bias, dims, 1e-5, True, False)


def add_norm(
    x: Any = X,
    residual: Any = X,
    weight: Any = W,
    dims: int = 1,
    dropout: float = 0.0,
    seed: Any = None,
) -> Any:
    return OPS.add_norm(x, residual, weight, None, dims, 1e-5, True, False, dropout, seed)


def backward(
    dy: Any = X,
    dsummed: Any = None,
    saved: Any = X,
    stats: Any = STATS,
    weight: Any = W,
    bias: Any = W,
    dims: int = 1,
    save_output: bool = False,
    dtype: torch.dtype = FP32,
    dropout: float = 0.0,
    seed: Any = None,
) -> Any:
    affine = weight, bias, dims, 1e-5, True, save_output
    return OPS.norm_backward(dy, dsummed, saved, stats, *affine, dtype, dropout, seed, True, True)


NONSENSE: dict[str, Callable[[], Any]] = {
    "no dims": lambda: norm(dims=0),
    "negative dims": lambda: norm(dims=-1),
    "too many dims": lambda: norm(dims=3),
    "absurd dims": lambda: norm(dims=2**62),
    "scalar": lambda: norm(x=ones()),
    "nothing to normalize": lambda: norm(x=ones(3, 0), weight=None, bias=None),
    "integers": lambda: norm(x=X.long(), weight=None, bias=None),
    "booleans": lambda: norm(x=X.bool(), weight=None, bias=None),
    "complex": lambda: norm(x=X.to(torch.complex64), weight=None, bias=None),
    "sparse": lambda: norm(x=X.to_sparse()),
    "sparse weight": lambda: norm(weight=W.to_sparse()),
    "short weight": lambda: norm(weight=ones(3)),
    "long weight": lambda: norm(weight=ones(5)),
    "weight of one": lambda: norm(weight=ones(1)),
    "empty weight": lambda: norm(weight=ones(0)),
    "short bias": lambda: norm(bias=ones(3)),
    "long bias": lambda: norm(bias=ones(5)),
    "weight for more dims": lambda: norm(dims=2),
    "integer weight": lambda: norm(weight=W.long()),
    "float64 weight": lambda: norm(weight=W.double()),
    "float64 bias": lambda: norm(bias=W.double()),
    "add: no dims": lambda: add_norm(dims=0),
    "add: too many dims": lambda: add_norm(dims=3),
    "add: shorter residual": lambda: add_norm(residual=ones(2, 4)),
    "add: longer residual": lambda: add_norm(residual=ones(4, 4)),
    "add: transposed residual": lambda: add_norm(residual=ones(4, 3)),
    "add: residual of fewer dimensions": lambda: add_norm(residual=ones(12)),
    "add: residual of one row": lambda: add_norm(residual=ones(1, 4)),
    "add: empty residual": lambda: add_norm(residual=ones(0, 4)),
    "add: integer residual": lambda: add_norm(residual=X.long()),
    "add: half residual": lambda: add_norm(residual=X.bfloat16()),
    "add: float64 residual": lambda: add_norm(residual=X.double()),
    "add: two halves": lambda: add_norm(x=X.half(), residual=X.bfloat16(), weight=None),
    "add: float64 x": lambda: add_norm(x=X.double(), weight=None),
    "add: sparse residual": lambda: add_norm(residual=X.to_sparse()),
    "add: float seed": lambda: add_norm(dropout=0.5, seed=torch.tensor(1.0)),
    "add: short seed": lambda: add_norm(dropout=0.5, seed=torch.tensor(1, dtype=torch.int32)),
    "add: no seed's number": lambda: add_norm(dropout=0.5, seed=torch.empty(0, dtype=torch.int64)),
    "add: two seeds": lambda: add_norm(dropout=0.5, seed=torch.tensor([1, 2])),
    "add: all dropped": lambda: add_norm(dropout=1.0, seed=SEED),
    "add: more than all dropped": lambda: add_norm(dropout=2.0, seed=SEED),
    "add: negative dropout": lambda: add_norm(dropout=-0.5, seed=SEED),
    "add: nan dropout": lambda: add_norm(dropout=math.nan, seed=SEED),
    "backward: no dims": lambda: backward(dims=0),
    "backward: too many dims": lambda: backward(dims=3),
    "backward: weight for more dims": lambda: backward(dims=2, stats=ones(2, dtype=FP64)),
    "backward: shorter dy": lambda: backward(dy=ones(2, 4)),
    "backward: narrower dy": lambda: backward(dy=ones(3, 3)),
    "backward: transposed dy": lambda: backward(dy=ones(4, 3)),
    "backward: flat dy": lambda: backward(dy=ones(12)),
    "backward: dy of one row": lambda: backward(dy=ones(1, 4)),
    "backward: integer dy": lambda: backward(dy=X.long()),
    "backward: float64 dy": lambda: backward(dy=X.double()),
    "backward: shorter saved": lambda: backward(saved=ones(2, 4)),
    "backward: integer saved": lambda: backward(saved=X.long()),
    "backward: saved of another dtype": lambda: backward(saved=X.bfloat16()),
    "backward: saved in float64": lambda: backward(saved=X.double()),
    "backward: saved sum of another dtype": lambda: backward(dy=X.half(), saved=X.half()),
    "backward: saved output of another dtype": lambda: backward(dy=X.half(), save_output=True),
    "backward: shorter dsummed": lambda: backward(dsummed=ones(2, 4)),
    "backward: transposed dsummed": lambda: backward(dsummed=ones(4, 3)),
    "backward: dsummed of another dtype": lambda: backward(dsummed=X.bfloat16()),
    "backward: integer dsummed": lambda: backward(dsummed=X.long()),
    "backward: integer result": lambda: backward(dtype=torch.int64),
    "backward: half result": lambda: backward(dtype=BF16),
    "backward: float64 result": lambda: backward(dtype=FP64),
    "backward: no stats": lambda: backward(stats=ones(0, dtype=FP64)),
    "backward: scalar stats": lambda: backward(stats=ones(dtype=FP64)),
    "backward: fewer stats": lambda: backward(stats=ones(2, 2, dtype=FP64)),
    "backward: more stats": lambda: backward(stats=ones(4, 2, dtype=FP64)),
    "backward: stats of one number": lambda: backward(stats=ones(3, 1, dtype=FP64)),
    "backward: transposed stats": lambda: backward(stats=ones(2, 3, dtype=FP64)),
    "backward: stats in float32": lambda: backward(stats=STATS.float()),
    "backward: integer stats": lambda: backward(stats=STATS.long()),
    "backward: sparse stats": lambda: backward(stats=STATS.to_sparse()),
    "backward: short weight": lambda: backward(weight=ones(3)),
    "backward: long bias": lambda: backward(bias=ones(5)),
    "backward: integer weight": lambda: backward(weight=W.long()),
    "backward: two seeds": lambda: backward(dropout=0.5, seed=torch.tensor([1, 2])),
    "backward: float seed": lambda: backward(dropout=0.5, seed=torch.tensor(1.0)),
    "backward: all dropped": lambda: backward(dropout=1.0, seed=SEED),
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("kernel", kernels.backends()[1:])  # torch's operators broadcast
def test_kernels_refuse_wrong_arguments(kernel: str, name: str) -> None:
    errors = RuntimeError, NotImplementedError, TypeError, ValueError
    with kernels.use(kernel), pytest.raises(errors) as caught:
        NONSENSE[name]()
    assert str(caught.value)


def test_operators_accept_right_arguments(backend: str) -> None:
    assert [tuple(found.shape) for found in norm()] == [(3, 4), (3, 2)]
    assert [tuple(found.shape) for found in add_norm()] == [(3, 4), (3, 4), (3, 2)]
    found = backward(dsummed=X)
    assert [tuple(each.shape) for each in found] == [(3, 4), (0,), (4,), (4,)]
    found = backward(dropout=0.5, seed=SEED)
    assert [tuple(each.shape) for each in found] == [(3, 4), (3, 4), (4,), (4,)]


def test_operators_accept_every_layout(backend: str) -> None:
    chance = torch.Generator().manual_seed(0)
    stats = torch.rand(3, 2, dtype=FP64, generator=chance) + 0.5
    dy, dsummed, saved = (torch.randn(3, 4, generator=chance) for _ in range(3))
    want = backward(dy, dsummed, saved, stats)
    laid = [value.T.contiguous().T for value in (dy, dsummed, saved, stats)]
    for mask in range(16):
        given = (laid, (dy, dsummed, saved, stats))
        got = backward(*(given[mask >> at & 1][at] for at in range(4)))
        for ours, plain in zip(got, want, strict=True):
            torch.testing.assert_close(ours, plain)
