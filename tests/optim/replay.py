"""A model with every kind of parameter, and the gradients of its training to replay on copies.

Replayed gradients go through autograd's accumulation like any others, but do not depend on the
parameters: so a thousand steps cost little, and a difference of rounding is not amplified.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from metronorm.errors import MetronormError
from metronorm.optim import Ticks, windows

FP64, FP32, BF16, FP16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
ROUNDING = {FP64: 2**-53, FP32: 2**-24}

TOKENS, WIDTH = 7, 4
TICKS = 1000
UNEQUAL = (1, 30, 4, 12, 2, 7, 19)  # tokens in beats

Beat = Mapping[str, Tensor]  # gradients by name; of what was not used there is none
Windows = Sequence[Sequence[Beat]]
Parameters = dict[str, nn.Parameter]


class Net(nn.Module):
    """Parameters that are tied, used twice, frozen, and used only when asked for."""

    def __init__(self, dtype: torch.dtype = FP64, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(TOKENS, WIDTH)
            self.dense = nn.Linear(WIDTH, WIDTH)
            self.shared = nn.Linear(WIDTH, WIDTH, bias=False)
            self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
            self.sometimes = nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.embedding.weight
        self.to(dtype)

    def forward(self, tokens: Tensor, *, more: bool) -> Tensor:  # (batch,) -> (batch, TOKENS)
        x = self.embedding(tokens) + self.frozen(self.embedding(tokens + 1))
        x = x + self.dense(x).tanh()
        x = x + self.shared(self.shared(x).tanh()).tanh()
        if more:
            x = x + self.sometimes(x).tanh()
        return self.head(x)


Batch = tuple[Tensor, Tensor]  # tokens and what is to be predicted from each


def draw_batch(length: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, TOKENS - 1, (2, length), generator=generator)
    return drawn[0], drawn[1]


def summed_loss(model: nn.Module, batch: Batch, *, more: bool = True) -> Tensor:
    tokens, targets = batch
    return cross_entropy(model(tokens, more=more), targets, reduction="sum")


def batches(lengths: Sequence[int]) -> list[Batch]:
    return [draw_batch(length, seed) for seed, length in enumerate(lengths)]


def count(batch: Batch) -> int:
    return len(batch[0])


def joined(batches: Iterable[Batch]) -> Batch:
    """The one big batch."""
    tokens, targets = zip(*batches, strict=True)
    return torch.cat(tokens), torch.cat(targets)


@functools.cache
def history(ticks: int = TICKS, dtype: torch.dtype = FP64) -> Windows:
    """Gradients at random places: windows of one to three beats, one in four of which uses all."""
    if dtype != FP64:
        exact = history(ticks)
        return [[{n: g.to(dtype) for n, g in beat.items()} for beat in beats] for beats in exact]
    model, generator = Net(), torch.Generator().manual_seed(0)
    recorded = []
    for tick in range(ticks):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.5, generator=generator)
        beats = []
        for beat in range(1 + tick % 3):
            more = bool(torch.rand((), generator=generator) < 0.25)
            model.zero_grad()
            (summed_loss(model, draw_batch(3, 3 * tick + beat), more=more) / 8).backward()
            beats.append(gradients(model))
        recorded.append(beats)
    return recorded


def train_in_windows(model: nn.Module, lengths: Sequence[int], size: int) -> None:
    optimizer = Ticks(model.parameters(), 0.1, 0.9)
    for window in windows(batches(lengths), size, count=count):
        for batch, weight in window:
            (weight * summed_loss(model, batch)).backward()
        optimizer.step()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_beat(recorded: Windows) -> Windows:
    """The first beat of every window."""
    return [beats[:1] for beats in recorded]


def parameters(dtype: torch.dtype = FP64, seed: int = 0) -> Parameters:
    """Those of the model, frozen ones among them."""
    return dict(Net(dtype, seed).named_parameters())


def backward(given: Parameters, beat: Beat) -> None:
    """Let autograd accumulate the gradients of a beat."""
    torch.autograd.backward([given[name] for name in beat], list(beat.values()))


def replay(
    optimizer: torch.optim.Optimizer,
    given: Parameters,
    recorded: Windows,
    *,
    after: Callable[[], Any] = lambda: None,
) -> None:
    """Train on recorded gradients; `after` is called after every step."""
    for beats in recorded:
        for beat in beats:
            backward(given, beat)
        optimizer.step()
        after()


def replay_torch(optimizer: torch.optim.Optimizer, given: Parameters, recorded: Windows) -> None:
    """The same for an optimizer of torch, which wants gradients dropped."""
    replay(optimizer, given, recorded, after=optimizer.zero_grad)


def reference(
    equations: Callable[..., Any], start: Parameters, recorded: Windows, **options: Any
) -> dict[str, Tensor]:
    """Parameters after the equations, each with the windows that it has a gradient in."""
    results = {}
    for name, parameter in start.items():
        of_this = [
            [beat[name].flatten().tolist() for beat in beats if name in beat] for beats in recorded
        ]
        end = equations(
            parameter.flatten().tolist(), [beats for beats in of_this if beats], **options
        )
        results[name] = torch.tensor(end, dtype=FP64).view_as(parameter)
    return results


def tensors_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> set[str]:
    """Names of what an optimizer holds for a parameter, besides numbers."""
    return {name for name, v in optimizer.state[parameter].items() if isinstance(v, Tensor)}


def far(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> float:
    """The largest relative difference of a parameter, by norms."""
    assert got.keys() == want.keys()
    differences = {
        name: float((got[name].detach().double() - want[name].detach().double()).norm())
        / float(want[name].detach().double().norm())
        for name in want
    }
    return max(differences.values())


def same(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> bool:
    """Whether all elements are equal, bitwise but for the sign of zero."""
    assert got.keys() == want.keys()
    return all(torch.equal(got[name], want[name]) for name in want)


def refused(
    error: type[MetronormError], call: Callable[[], Any], *parts: str
) -> pytest.ExceptionInfo[MetronormError]:
    """An error that says what must hold and what arrived, on one line, with these parts."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, (part, text)
    return caught
