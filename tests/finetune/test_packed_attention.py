"""Attention inside documents: exact, beside one document at a time, and linear in documents."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metronorm.finetune.architectures import features
from metronorm.finetune.packed_attention import Documents, _causal
from tests.finetune.tiny import CAUSAL, build, one_by_one, packed, twin

LENGTHS = [7, 1, 12, 12, 3, 9]


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def slope(count: int, model: Any) -> Tensor:
    """A gradient to send back, the same for the same rows."""
    width = model.config.hidden_size
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1)).to(model.dtype)


def furthest(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of two sets of gradients, in units of the largest gradient."""
    assert ours.keys() == theirs.keys()
    largest = max(float(value.abs().max()) for value in theirs.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours) / largest


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_is_one_by_one_to_rounding(name: str, checkpointing: bool) -> None:
    model = build(name, exact=True)
    alone = twin(model)
    if checkpointing:
        model.activation_checkpointing_enable()
    batch = packed(LENGTHS)
    together = features(model, batch)
    back = slope(len(together), model)
    together.backward(back)
    apart = [
        alone.base_model(torch.as_tensor(each["ids"])[None]).last_hidden_state[0]
        for each in one_by_one(batch)
    ]
    torch.cat(apart).backward(back)
    assert (together - torch.cat(apart)).abs().max() < 1e-12
    assert furthest(gradients(model), gradients(alone)) < 1e-12


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_is_one_by_one_under_autocast(name: str, checkpointing: bool) -> None:
    model = build(name)
    alone = twin(model)
    if checkpointing:
        model.activation_checkpointing_enable()
    batch = packed(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        together = features(model, batch)
        apart = [features(alone, each) for each in one_by_one(batch)]
    back = slope(len(together), model)
    together.backward(back.to(together.dtype))
    torch.cat(apart).backward(back.to(together.dtype))
    assert (together - torch.cat(apart)).abs().max() < 0.05 * together.abs().max()
    assert furthest(gradients(model), gradients(alone)) < 0.05


class Elements(TorchDispatchMode):
    """Counts the elements that all operators together make, and those of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.made += value.numel()
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("name", CAUSAL)
def test_cost_is_linear_in_documents(name: str) -> None:
    def cost(documents: int) -> Elements:
        model = build(name)
        batch = packed([5, 7] * documents)  # none has a neighbour of its length
        with Elements() as count:
            features(model, batch).sum().backward()
        return count

    one, two, four = cost(16), cost(32), cost(64)
    assert four.made - two.made == pytest.approx(2 * (two.made - one.made), rel=0.01)
    positions = 64 * 12
    assert four.largest < positions * positions / 4, "a table of all positions by all positions"


def test_a_neighbour_of_equal_length_shares_a_call() -> None:
    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.count += "attention" in str(func)
            return func(*args, **(kwargs or {}))

    model = build("llama").eval()
    with torch.no_grad(), Calls() as calls:
        features(model, packed([6, 6, 6, 4, 6]))
    assert calls.count == 3 * model.config.num_hidden_layers


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 5, 33])
def test_bf16_attention_has_the_gradients_of_float64(key_heads: int, length: int) -> None:
    chance = torch.Generator().manual_seed(0)
    shapes = [(3, 4, length, 8), (3, key_heads, length, 8), (3, key_heads, length, 8)]
    short = [torch.randn(shape, generator=chance).bfloat16().requires_grad_() for shape in shapes]
    wide = [value.detach().double().requires_grad_() for value in short]
    back = torch.randn(shapes[0], generator=chance).bfloat16()
    ours = _causal(Documents(*short), 0.4, 0.0, None)
    ours.backward(back)
    q, k, v = wide
    k, v = (each.repeat_interleave(4 // key_heads, 1) for each in (k, v))
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = (0.4 * q @ k.mT).masked_fill(hidden, -math.inf).softmax(-1)
    (weights @ v).backward(back.double())
    for mine, judge in zip([ours, *short], [weights @ v, *wide], strict=True):
        one, other = (mine, judge) if mine is ours else (mine.grad, judge.grad)
        assert one is not None
        assert other is not None
        assert (one - other).abs().max() < 0.02 * other.abs().max() + 1e-6


def test_dropout_of_attention_is_drawn() -> None:
    model = build("gpt2")
    for block in model.transformer.h:
        block.attn.attn_dropout.p = 0.5
    batch = packed(LENGTHS)
    first, second = features(model, batch), features(model, batch)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(features(model, batch), features(model, batch))


@pytest.mark.parametrize("name", CAUSAL)
def test_other_uses_of_the_model_stay_as_they_were(name: str) -> None:
    model = build(name).eval()
    plain = twin(model)
    features(model, packed(LENGTHS))
    ids = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 7]])
    mask = (ids > 0).long()
    for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    written = [
        each.generate(ids[1:], max_new_tokens=8, do_sample=False, pad_token_id=0)
        for each in (model, plain)
    ]
    assert torch.equal(*written)
    assert "metronorm" not in model.config.to_json_string()


def test_a_mask_of_documents_is_refused_by_other_attention() -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        F.scaled_dot_product_attention(
            *(torch.randn(1, 1, 4, 2) for _ in range(3)),
            attn_mask=torch.tensor([4]).view(1, 1, 1, 1),
        )
