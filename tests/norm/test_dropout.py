"""The dropout mask, which is drawn again instead of kept: its numbers, positions and rate."""

import math

import pytest
import torch
from torch import Tensor

from metronorm.norm import AddLayerNorm, AddRMSNorm, add_layer_norm, add_rms_norm
from metronorm.norm.dropout import draw_seed, keep_scale, philox, threshold
from tests.norm.inputs import BF16, FP16, FP32, FP64, draw, draw_affine, draw_x, leaf

CPU = torch.device("cpu")

# Random123's known answers for philox4x32-10: key, counter, numbers.
KNOWN = [
    ("00000000 00000000", "00000000 " * 4, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff", "ffffffff " * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "a4093822 299f31d0",
        "243f6a88 85a308d3 13198a2e 03707344",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def plain_philox(key: tuple[int, ...], counter: tuple[int, ...]) -> tuple[int, ...]:
    """The same algorithm, in Python integers."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = second >> 32 ^ c1 ^ k0, second & 0xFFFFFFFF
        c2, c3 = first >> 32 ^ c3 ^ k1, first & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def drawn(
    shape: tuple[int, ...], dropout: float, seed: int = 5, dims: int = 1, dtype: torch.dtype = FP32
) -> Tensor:
    """The sum for x of ones and a residual of zeros: this is the scaled mask."""
    return laid(torch.ones(shape, dtype=dtype), dropout, seed, dims)


def laid(ones: Tensor, dropout: float, seed: int = 5, dims: int = 1) -> Tensor:
    torch.manual_seed(seed)
    residual = torch.zeros_like(ones)
    return add_layer_norm(ones, residual, ones.shape[-dims:], dropout=dropout)[1]


def assert_rate(kept: Tensor, keep: float) -> None:
    """Within five standard deviations of the expected number."""
    deviation = math.sqrt(keep * (1 - keep) / kept.numel())
    assert abs(kept.double().mean().item() - keep) < 5 * deviation


@pytest.mark.parametrize(("key", "counter", "numbers"), KNOWN)
def test_known_answers(key: str, counter: str, numbers: str) -> None:
    low, high = words(key)
    seed = torch.tensor(high << 32 | low, dtype=torch.uint64).view(torch.int64)
    got = philox(seed, tuple(torch.tensor(word) for word in words(counter)))
    assert tuple(map(int, got)) == words(numbers)
    assert plain_philox(words(key), words(counter)) == words(numbers)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**61 + 12345, 2**62 - 1])
def test_every_element_has_its_number(seed: int) -> None:
    got = keep_scale(torch.Size((5, 2, 11)), 1, 0.5, torch.tensor(seed), FP64).flatten(0, 1)
    key = (seed & 0xFFFFFFFF, seed >> 32)
    for row in range(10):
        for column in range(11):
            number = plain_philox(key, (column // 4, row, 0, 0))[column % 4]
            assert got[row, column] == (2.0 if number >= 2**31 else 0.0)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 1023, 5000])
def test_every_backend_drops_the_same(backend: str, width: int) -> None:
    for rows, dropout in ((1, 0.5), (7, 0.1), (40, 0.93)):
        torch.manual_seed(5)
        want = keep_scale(torch.Size((rows, width)), 1, dropout, draw_seed(CPU), FP64)
        got = drawn((rows, width), dropout).double()
        torch.testing.assert_close(got, want, rtol=1e-6, atol=0.0)
        assert torch.equal(got != 0, want != 0)


@pytest.mark.parametrize("dropout", [0.01, 0.1, 0.5, 0.9])
def test_rate(backend: str, dropout: float) -> None:
    for seed in range(3):
        mask = drawn((200, 1001), dropout, seed)
        assert_rate(mask != 0, 1 - dropout)
        kept = mask[mask != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - dropout)))


def test_neighbours_and_calls_are_independent(backend: str) -> None:
    mask = drawn((400, 500), 0.5) != 0
    assert_rate(mask[1:] == mask[:-1], 0.5)
    for distance in (1, 2, 3, 4, 8):
        assert_rate(mask[:, distance:] == mask[:, :-distance], 0.5)
    again = add_layer_norm(torch.ones(400, 500), torch.zeros(400, 500), 500, dropout=0.5)[1] != 0
    assert_rate(mask == again, 0.5)
    assert_rate(mask == (drawn((400, 500), 0.5, seed=6) != 0), 0.5)


def test_threshold_keeps_within_32_bits() -> None:
    assert threshold(0.5) == 2**31
    assert threshold(1e-12) == 0
    assert threshold(1 - 1e-12) == 2**32 - 1


def test_the_mask_depends_on_positions_not_on_memory_layout(backend: str) -> None:
    mask = drawn((4, 6, 10), 0.4)
    ones = torch.ones(10, 6, 4)
    for other in (
        ones.permute(2, 1, 0),
        ones.permute(2, 1, 0).contiguous().transpose(0, 1).contiguous().transpose(0, 1),
        torch.ones(4, 6, 20)[..., ::2],
        torch.ones(8, 6, 10)[::2],
        torch.ones(4, 6, 13)[..., 2:12],
        torch.ones(()).expand(4, 6, 10),
    ):
        assert torch.equal(laid(other, 0.4), mask)
    assert torch.equal(drawn((24, 10), 0.4), mask.flatten(0, 1))
    assert torch.equal(drawn((4, 60), 0.4), drawn((4, 6, 10), 0.4, dims=2).flatten(1))


def test_mask_is_the_same_in_every_dtype(backend: str) -> None:
    kept = drawn((9, 37), 0.4) != 0
    for dtype in (BF16, FP16, FP64):
        assert torch.equal(drawn((9, 37), 0.4, dtype=dtype) != 0, kept)
    torch.manual_seed(5)
    ones = torch.ones(9, 37, dtype=BF16)
    summed = add_rms_norm(ones, torch.zeros(9, 37), 37, dropout=0.4)[1]
    assert torch.equal(summed != 0, kept)


@pytest.mark.parametrize("dtypes", [(FP32, FP32), (BF16, BF16), (BF16, FP32), (FP64, FP64)])
@pytest.mark.parametrize("width", [1, 7, 64, 1001])
def test_backward_draws_it_again(backend: str, width: int, dtypes: tuple[torch.dtype, ...]) -> None:
    x = leaf(torch.ones(9, width, dtype=dtypes[0]))
    residual = leaf(torch.zeros(9, width, dtype=dtypes[1]))
    _, summed = add_layer_norm(x, residual, width, dropout=0.4)
    torch.rand(100)  # numbers drawn in between do not matter
    summed.sum().backward()
    torch.testing.assert_close(x.grad.double(), summed.detach().double(), rtol=5e-3, atol=0.0)
    assert torch.equal(x.grad != 0, summed != 0)
    assert torch.equal(residual.grad, torch.ones_like(residual))


def test_seed_reproduces(backend: str) -> None:
    first = [drawn((9, 37), 0.4, seed=3) for _ in range(2)]
    assert torch.equal(*first)
    assert not torch.equal(first[0], drawn((9, 37), 0.4, seed=4))


@pytest.mark.parametrize("made", [AddLayerNorm, AddRMSNorm])
def test_without_dropout_and_in_evaluation_nothing_is_drawn(backend: str, made: type) -> None:
    x, residual = draw_x((3, 17)), draw_x((3, 17), seed=4)
    state = torch.get_rng_state()
    found = made(17)(x, residual)
    for layer in (made(17, dropout=0.0), made(17, dropout=0.9).eval()):
        assert all(map(torch.equal, layer(x, residual), found))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(made(17, dropout=0.9)(x, residual)[1], found[1])
    assert not torch.equal(torch.get_rng_state(), state)


def test_mean_is_kept(backend: str) -> None:
    x = draw((300, 500)).abs()
    torch.manual_seed(5)
    _, summed = add_layer_norm(x, torch.zeros_like(x), 500, *draw_affine((500,)), dropout=0.25)
    deviation = math.sqrt((x.double().square().mean().item() / 3) / x.numel())
    assert abs(summed.double().mean() - x.double().mean()) < 5 * deviation


def test_seed_comes_from_torchs_generator() -> None:
    torch.manual_seed(5)
    seeds = [draw_seed(CPU) for _ in range(3)]
    torch.manual_seed(5)
    assert seeds == [draw_seed(CPU) for _ in range(3)]
    assert len({int(seed) for seed in seeds}) == 3
    assert {(seed.dtype, seed.shape) for seed in seeds} == {(torch.int64, torch.Size(()))}
