from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from metronorm.errors import OutOfMemoryError
from metronorm.models.config import GPTConfig
from metronorm.train.machine import (
    check_memory,
    check_model_memory,
    choose_allocator,
    choose_precision,
    is_out_of_memory,
    keep_large_blocks,
    untouched,
)

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


def test_a_long_step_is_measured_once() -> None:
    time = VirtualTime()
    count = 0

    def step(precision: str) -> None:
        nonlocal count
        count += 1
        time.pass_(6 * 10**9)

    choose_precision(step, CPU, now=lambda: time() / 1e9)
    assert count == 4


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


def test_a_micro_batch_that_cannot_fit_is_refused() -> None:
    config = GPTConfig(vocab_size=1000, context=100, layers=2, heads=2, width=48)
    least = 10 * 100 * (2 * 4 * 1000 + 8 * 2 * 2 * 48)
    check_memory(config, 10, available=least)
    with pytest.raises(OutOfMemoryError, match=r"10 x 100 tokens needs at least 0\.0 GiB"):
        check_memory(config, 10, available=least - 1)
    with pytest.raises(MemoryError, match="smaller --batch-size"):
        check_memory(config, 10**9)


def test_a_model_that_cannot_fit_is_refused_before_it_is_made() -> None:
    config = GPTConfig(vocab_size=1000, context=100, layers=2, heads=2, width=48)
    tables, cache = 100 * 24, 2 * 2 * 2 * 100 * 24
    least = 4 * (3 * config.parameters + 8 * tables + cache)
    check_model_memory(config, copies=3, available=least)
    with pytest.raises(OutOfMemoryError, match=rf"a model of {config.parameters:,} parameters"):
        check_model_memory(config, copies=3, available=least - 1)
    with pytest.raises(MemoryError, match=r"smaller --model\.width"):
        check_model_memory(replace(config, layers=2**31 - 1))
    with pytest.raises(MemoryError, match=r"smaller --model\.width"):
        check_memory(replace(config, context=2**31 - 1), 1)


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 50)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 50)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
    assert not is_out_of_memory(RuntimeError("something else"))


def test_trying_out_leaves_no_trace() -> None:
    model = nn.Linear(2, 2)
    before = torch.get_rng_state()
    with untouched(model):
        model(torch.randn(3, 2)).sum().backward()
        assert model.weight.grad is not None
    assert model.weight.grad is None
    assert torch.equal(torch.get_rng_state(), before)
