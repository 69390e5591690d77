"""Answers that stop: as a model that answers each prompt alone, whatever its architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metronorm.finetune.architectures import features
from metronorm.finetune.examples import Example
from metronorm.finetune.stopping import Prompt, prompts_of, stops
from tests.finetune.tiny import CAUSAL, build, packed

CONTEXT = 64


def example(prompt: int, answer: int, rest: int = 0) -> Example:
    weights = np.repeat(np.array([0, 1, 0.5], dtype=np.float32), [prompt, answer, rest])
    return Example(np.arange(len(weights), dtype=np.int32), weights, "file", 1)


def test_a_prompt_is_what_comes_before_the_first_answer() -> None:
    rows = [example(7, 2, 3), example(3, 100), example(90, 30)]
    found = {len(each.ids): each.most for each in prompts_of(rows, 9, context=128)}
    assert found == {7: 64, 3: 125, 90: 38}  # 64 at least, twice the answer, the room that is left
    assert len(prompts_of(rows, 2, context=128)) == 2


@torch.no_grad()
def alone(model: Any, prompt: Prompt) -> list[int]:
    """What the model writes without a cache and without padding."""
    ids = prompt.ids.tolist()
    for _ in range(prompt.most):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt.ids) :]


@pytest.mark.parametrize(
    ("name", "packs_before"), [*((name, False) for name in CAUSAL), ("gemma3", True)]
)
def test_prompts_side_by_side_stop_as_alone(name: str, *, packs_before: bool) -> None:
    model = build(name).eval()
    if packs_before:  # the model keeps our attention function
        features(model, packed([5, 9]))
    chance = np.random.default_rng(0)
    prompts = [
        Prompt(chance.integers(3, 60, size).astype(np.int32), most)
        for size, most in zip(chance.integers(1, 40, 17), chance.integers(2, 12, 17), strict=True)
    ]
    prompts.append(Prompt(chance.integers(3, 60, CONTEXT - 4).astype(np.int32), 4))  # up to the end
    written = [alone(model, each) for each in prompts]
    in_answers = {token: sum(token in each for each in written) for token in range(60)}
    end = min(in_answers, key=lambda token: abs(in_answers[token] - len(prompts) / 2))
    assert 0 < in_answers[end] < len(prompts)
    expected = [end in each for each in written]
    found = stops(model, prompts, {end})
    assert found[:, 0].tolist() == expected
    assert found[:, 1].tolist() == [1] * len(prompts)
