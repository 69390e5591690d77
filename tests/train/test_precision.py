from typing import Literal

import pytest
import torch
from torch import nn

from metronorm.allocator import keep_large_blocks
from metronorm.train.precision import choose_allocator, choose_precision, discarding_gradients

from ..clock.virtual import VirtualTime

CPU = torch.device("cpu")


@pytest.mark.parametrize("faster", ["fp32", "bf16"])
def test_the_faster_precision_is_measured(faster: Literal["fp32", "bf16"]) -> None:
    time = VirtualTime()
    tried = []

    def step(precision: Literal["fp32", "bf16"]) -> None:
        first = precision not in tried
        tried.append(precision)
        time.pass_(1_000 if first else 1 if precision == faster else 2)  # a cold start is no sign

    assert choose_precision(step, CPU, now=lambda: time() / 1e9) == faster
    assert tried == ["fp32", "bf16"] * 21, "in turn, so that a busy machine disturbs both alike"


def test_a_difference_that_may_be_noise_does_not_decide() -> None:
    time = VirtualTime()

    def step(precision: str) -> None:
        time.pass_(95 if precision == "bf16" else 100)

    assert choose_precision(step, CPU, now=lambda: time() / 1e9) == "fp32"


def test_a_long_step_is_measured_once() -> None:
    time = VirtualTime()
    count = 0

    def step(precision: str) -> None:
        nonlocal count
        count += 1
        time.pass_(6 * 10**9)

    choose_precision(step, CPU, now=lambda: time() / 1e9)
    assert count == 4


def test_a_step_that_takes_ten_times_as_long_is_not_run_again() -> None:
    time = VirtualTime()
    tried = []

    def step(precision: str) -> None:
        tried.append(precision)
        time.pass_((31 if precision == "bf16" else 3) * 10**9)

    assert choose_precision(step, CPU, now=lambda: time() / 1e9) == "fp32"
    assert tried == ["fp32", "bf16"]


@pytest.mark.skipif(not keep_large_blocks(False), reason="no glibc")
@pytest.mark.parametrize(("second", "chosen"), [(1, "keep"), (3, "system")])
def test_the_allocator_is_measured(second: int, chosen: str) -> None:
    time = VirtualTime()
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        time.pass_(2 if count <= 21 else second)

    assert choose_allocator(step, now=lambda: time() / 1e9) == chosen
    keep_large_blocks(False)


def test_trying_out_leaves_no_trace() -> None:
    model = nn.Linear(2, 2)
    before = torch.get_rng_state()
    with discarding_gradients(model):
        model(torch.randn(3, 2)).sum().backward()
        assert model.weight.grad is not None
    assert model.weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)
