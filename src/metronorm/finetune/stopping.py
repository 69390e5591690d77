"""How often answers stop: a model answers prompts by itself, and ends with a token that ends.

The most probable token is taken each time, so before and after differ by the models alone. Prompts
are answered side by side: they are padded on their left, and masked there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from metronorm.finetune.examples import Example
    from metronorm.finetune.pretrained import Pretrained

_LEAST = 64  # tokens that every answer may have
_TOGETHER = 16  # prompts


class Prompt(NamedTuple):
    """What is to be answered.

    Attributes:
        ids: int32 (tokens,), all that comes before a row's first answer.
        most: tokens in which the answer should end: twice those of the row's own, 64 at least, and
            what the context has room for.
    """

    ids: NDArray[np.int32]
    most: int


def prompts_of(examples: Sequence[Example], number: int, *, context: int) -> list[Prompt]:
    """The prompts of some examples, drawn by chance and always the same, short answers first.

    Args:
        examples: rows with answers; the weight of an answer's tokens is 1, and that of others less.
        number: prompts at most.
        context: most tokens of the model.
    """
    drawn = np.random.default_rng(0).permutation(len(examples))[:number]
    prompts = [_prompt(examples[each], context) for each in drawn.tolist()]
    return sorted(prompts, key=lambda prompt: prompt.most)


def _prompt(example: Example, context: int) -> Prompt:
    counts = example.weights >= 1
    first = int(counts.argmax())
    answer = int((~np.append(counts[first:], False)).argmax())
    return Prompt(example.ids[:first], min(max(2 * answer, _LEAST), context - first))


def ends_of(pretrained: Pretrained, ends: Sequence[int] = ()) -> set[int]:
    """The tokens that end an answer: those of a model and its tokenizer, and others.

    Args:
        pretrained: a causal model.
        ends: the others, such as those that the answers of a training ended with.
    """
    own = getattr(pretrained.model.generation_config, "eos_token_id", None)
    found = {*ends, *(own if isinstance(own, list) else [own]), pretrained.tokenizer.eos_token_id}
    return found - {None}


@torch.no_grad()
def stops(model: Any, prompts: Sequence[Prompt], ends: set[int]) -> NDArray[np.float64]:
    """Whether the model ends its answers.

    Args:
        model: a causal model of transformers, in evaluation mode.
        prompts: of at most so many tokens that an answer has room in the context.
        ends: tokens that end an answer.

    Returns:
        (prompts, 2): 1 where it has ended, and 1.
    """
    starts = range(0, len(prompts), _TOGETHER)
    parts = [_ended(model, prompts[start : start + _TOGETHER], ends) for start in starts]
    ended = torch.cat(parts).double().numpy()
    return np.stack([ended, np.ones_like(ended)], axis=1)


def _ended(model: Any, prompts: Sequence[Prompt], ends: set[int]) -> torch.Tensor:
    """Bool (prompts,)."""
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts])
    longest = int(lengths.max())
    mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
    ids = torch.zeros_like(mask)
    ids[mask.bool()] = torch.from_numpy(np.concatenate([each.ids for each in prompts])).long()
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    most = torch.tensor([prompt.most for prompt in prompts], device=model.device)
    last = torch.tensor(sorted(ends), device=model.device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    cache: Any = None
    for written in range(int(most.max())):
        found = model(
            input_ids=ids,
            attention_mask=mask,
            # (past its own end an answer is of no account, but its position must be one)
            position_ids=positions.clamp(max=model.config.max_position_embeddings - 1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = found.past_key_values
        ids = found.logits[:, -1].argmax(-1, keepdim=True)
        ended |= torch.isin(ids[:, 0], last) & (written < most)
        if bool((ended | (written + 1 >= most)).all()):
            break
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return ended.cpu()
