"""A recommender with a catalogue of a million items: `SASRec`'s loss beside plain logits.

One forward and backward pass of `metronorm.models.SASRec`, in float32, for 128 targets. Its item
embeddings are input and output layer and have a `.grad` already, as in every tick but the first.
Three numbers: by how much the pass raises the memory of a process at its peak (the kernel's count;
each in a process of its own), its milliseconds, and the relative difference of the gradients of the
embeddings beside float64.

- ours: `linear_cross_entropy`, which `SASRec` uses.
- plain: `F.cross_entropy` of the scores of all items.

python bench/recommender_catalogue.py                   less than a minute on two idle cores
python bench/recommender_catalogue.py --items 50000 --turns 5
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from _memory import risen
from _race import race, ratios
from _rows import append
from torch import Tensor

from metronorm.allocator import keep_large_blocks
from metronorm.models import SASRec

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "recommender_catalogue"
WIDTH, ROWS, LENGTH = 64, 4, 32


def ours(model: SASRec, chosen: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = model(chosen, targets)
    return loss


def plain(model: SASRec, chosen: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(chosen).flatten(0, 1), targets.flatten(), reduction="sum")


LOSSES: dict[str, Callable[..., Tensor]] = {"ours": ours, "plain": plain}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peak", choices=LOSSES, help="print what one pass needs, in MiB")
    arguments = parser.parse_args()
    model, *batch = make(arguments.items)
    if arguments.peak:
        tick(LOSSES[arguments.peak], model, *batch)  # what is loaded or made once
        print(risen(lambda: tick(LOSSES[arguments.peak], model, *batch)))
        return
    name = f"{arguments.items:,} items x {WIDTH}, {ROWS * LENGTH} targets"
    for who in LOSSES:
        order = [sys.executable, __file__, "--items", str(arguments.items), "--peak", who]
        printed = subprocess.run(order, check=True, capture_output=True, text=True).stdout
        append(NAME, f"{name}, {who}, peak", "MiB", [float(printed)])
    keep_large_blocks(True)
    weight = model.items.weight
    append(NAME, f"{name}, the embeddings", "MiB", [weight.nbytes / 2**20])
    want = judge(model, *batch)
    for who, loss in LOSSES.items():
        tick(loss, model, *batch)
        assert weight.grad is not None
        far = sum(
            float((part.double() - right).square().sum())
            for part, right in zip(weight.grad.split(1 << 14), want.split(1 << 14), strict=True)
        )
        far = far**0.5 / float(want.norm())
        append(NAME, f"{name}, {who}, error of the embeddings' gradient", "relative", [far])
    del want
    turns = race(
        {who: lambda loss=loss: tick(loss, model, *batch) for who, loss in LOSSES.items()},  # type: ignore[misc]
        seconds=0,
        least=arguments.turns,
    )
    for who, samples in turns.items():
        append(NAME, f"{name}, {who}", "ms", samples)
    append(NAME, f"{name}, plain over ours", "ratio", ratios(turns, "plain", "ours"))


def make(items: int) -> tuple[SASRec, Tensor, Tensor]:
    """A model, items that were chosen and those that follow, (rows, length)."""
    torch.manual_seed(0)
    model = SASRec(items, width=WIDTH, length=LENGTH, dropout=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    chosen = torch.randint(items, (ROWS, LENGTH + 1))
    return model, chosen[:, :-1], chosen[:, 1:]


def tick(loss: Callable[..., Tensor], model: SASRec, chosen: Tensor, targets: Tensor) -> None:
    """Forward and backward, into gradients that are zero."""
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    (loss(model, chosen, targets) / targets.numel()).backward()


def judge(model: SASRec, chosen: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the embeddings in float64, by plain logits."""
    exact = SASRec(len(model.items.weight), width=WIDTH, length=LENGTH, dropout=0.0)
    exact.load_state_dict(model.state_dict())
    exact.double()
    (plain(exact, chosen, targets) / targets.numel()).backward()
    assert exact.items.weight.grad is not None
    return exact.items.weight.grad


if __name__ == "__main__":
    main()
