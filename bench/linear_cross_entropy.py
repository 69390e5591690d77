"""Loss of a linear head, forward and backward: ours, plain, torch's chunked one, TRL's and Liger's.

The head has a vocabulary of 49,152 and a width of 576 (SmolLM2-135M's); or several, to choose from
which vocabulary on our GPT trains in this way. The weight has a `.grad`
already, as in every beat but the first. Three numbers: milliseconds (contestants take turns, in one
process); by how much forward and backward raise the memory of a process at their peak (the kernel's
count, VmHWM, on Linux; each in a process of its own); and the relative error of the gradients
beside float64.

- plain: `F.linear`, then `F.cross_entropy` in float32.
- torch: `F.linear_cross_entropy` with 256 rows per chunk. Its own choice is 8 of 512 rows, which
  takes a CPU many times longer.
- TRL: its default loss by its description: rows that count, 256 at a time, each chunk in an
  activation checkpoint.
- Liger: its algorithm in plain torch, because its kernels need a GPU: gradients in the forward
  pass, a chunk at a time, the weight's added up in a tensor of its own. 256 rows per chunk; its own
  choice is 8 of 512 too.

python bench/linear_cross_entropy.py                    all, about ten minutes on two idle cores
python bench/linear_cross_entropy.py --rounds 3 --tokens 512
python bench/linear_cross_entropy.py --gpt              ours and plain at the sizes of our own GPT
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from _memory import risen
from _race import race, ratios
from _rows import append
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metronorm.allocator import keep_large_blocks
from metronorm.loss import linear_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEAD = (49_152, 576)  # vocabulary, width
GPT_HEADS = [(4_096, 384), (8_192, 512), (16_384, 768), (32_768, 768), (50_257, 768)]
ROWS = 256
NAME = "linear_cross_entropy"


class Case(NamedTuple):
    """Inputs of the head."""

    features: Tensor  # (tokens, width)
    weight: nn.Parameter  # (vocabulary, width)
    targets: Tensor  # (tokens,)

    def clear(self) -> None:
        """Make the gradients zero, the weight's in place."""
        self.features.grad = None
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.zero_()


def plain(case: Case) -> Tensor:
    logits = F.linear(case.features, case.weight)
    return F.cross_entropy(logits.float(), case.targets, reduction="sum")


def torchs(case: Case) -> Tensor:
    features: Tensor = case.features
    weight: Tensor = case.weight
    if torch.is_autocast_enabled("cpu"):  # it has no rule of its own for autocast
        features, weight = features.bfloat16(), weight.bfloat16()
    loss: Tensor = F.linear_cross_entropy(
        features,
        weight,
        case.targets,
        reduction="sum",
        options=nn.LinearCrossEntropyOptions(batch_chunk_size=ROWS, chunking_method=None),
    )
    return loss


def trl(case: Case) -> Tensor:
    counts = case.targets != -100
    features, targets = case.features[counts], case.targets[counts]
    loss = torch.zeros(())

    def part(features: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(features, case.weight).float()
        return F.cross_entropy(logits, targets, reduction="sum")

    for x, t in zip(features.split(ROWS), targets.split(ROWS), strict=True):
        loss = loss + checkpoint(part, x, t, use_reentrant=False)
    return loss


class Liger(torch.autograd.Function):
    """Gradients in the forward pass; the weight's in a tensor of the weight's dtype."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        low = torch.bfloat16 if torch.is_autocast_enabled("cpu") else features.dtype
        x, matrix = features.to(low), weight.to(low)
        of_weight, of_features = torch.zeros_like(matrix), torch.empty_like(x)
        loss = torch.zeros(())
        for first in range(0, len(x), ROWS):
            rows, t = x[first : first + ROWS], targets[first : first + ROWS]
            counts = t != -100
            logits = (rows @ matrix.T).float()
            values = logits.log_softmax(1)
            picked = t.clamp(min=0).unsqueeze(1)
            loss -= (values.gather(1, picked).squeeze(1) * counts).sum()
            values.exp_().scatter_add_(1, picked, -torch.ones_like(picked, dtype=values.dtype))
            gradient = values.mul_(counts.unsqueeze(1)).to(low)
            of_features[first : first + ROWS] = gradient @ matrix
            of_weight.addmm_(gradient.T, rows)
        ctx.save_for_backward(of_features, of_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        of_features, of_weight = ctx.saved_tensors
        return (of_features * slopes[0]).float(), (of_weight * slopes[0]).float(), None


def liger(case: Case) -> Tensor:
    loss: Tensor = Liger.apply(*case)  # type: ignore[no-untyped-call]
    return loss


def ours(case: Case) -> Tensor:
    return linear_cross_entropy(case.features, case.weight, case.targets)


CONTESTANTS: dict[str, Callable[[Case], Tensor]] = {
    "ours": ours,
    "plain": plain,
    "torch": torchs,
    "TRL's": trl,
    "Liger's": liger,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant, at least")
    parser.add_argument("--tokens", type=int, nargs="*", default=[512, 4096])
    parser.add_argument("--gpt", action="store_true", help="at the sizes of our own GPT")
    parser.add_argument("--peak", nargs=6, help="print the peak of: WHO PRECISION and four sizes")
    arguments = parser.parse_args()
    if arguments.peak:
        who, precision, *sizes = arguments.peak
        print(peak(CONTESTANTS[who], make(*map(int, sizes)), precision))
        return
    keep_large_blocks(True)
    if arguments.gpt:
        for head in GPT_HEADS:
            for precision in ("fp32", "autocast bf16"):
                case = make(2048, 2048, *head)
                compare(case, 2048, precision, arguments.rounds, ["ours", "plain"])
        return
    for tokens in arguments.tokens:
        for counted in (tokens, 184) if tokens == 512 else (tokens,):
            for precision in ("fp32", "autocast bf16"):
                compare(make(tokens, counted, *HEAD), counted, precision, arguments.rounds)


def make(tokens: int, counted: int, vocabulary: int, width: int) -> Case:
    """Logits with a standard deviation of about 2.4; only `counted` rows count, anywhere."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, width, generator=draw) * 0.1
    targets = torch.randint(vocabulary, (tokens,), generator=draw)
    targets[torch.randperm(tokens, generator=draw)[counted:]] = -100
    features = torch.randn(tokens, width, generator=draw).requires_grad_()
    return Case(features, nn.Parameter(weight), targets)


def compare(
    case: Case, counted: int, precision: str, rounds: int, names: Sequence[str] = tuple(CONTESTANTS)
) -> None:
    """One case of these contestants, ours first; appends rows."""
    tokens, (vocabulary, width) = len(case.targets), case.weight.shape
    which = f"{tokens:,} tokens" + (f" of which {counted} count" if counted < tokens else "")
    name = f"{which} x {vocabulary:,} x {width}, {precision}"
    want = judge(case)
    contestants = {who: CONTESTANTS[who] for who in names}
    for who, loss in contestants.items():
        case.clear()
        pass_through(loss, case, precision)
        for of, found, right in (
            ("weight", case.weight, want[0]),
            ("input", case.features, want[1]),
        ):
            assert found.grad is not None
            far = (found.grad - right).norm() / right.norm()
            append(NAME, f"{name}, {who}, error of the {of}'s gradient", "relative", [float(far)])
        sizes = map(str, (tokens, counted, vocabulary, width))
        order = [sys.executable, __file__, "--peak", who, precision, *sizes]
        printed = subprocess.run(order, check=True, capture_output=True, text=True).stdout
        append(NAME, f"{name}, {who}, peak", "MiB", [float(printed)])
    del want
    gc.collect()
    runs: dict[str, Callable[[], object]] = {
        who: turn(loss, case, precision) for who, loss in contestants.items()
    }
    turns = race(runs, seconds=0, least=rounds)
    for who, samples in turns.items():
        append(NAME, f"{name}, {who}", "ms", samples)
    for who in names[1:]:
        append(NAME, f"{name}, {who} over ours", "ratio", ratios(turns, who, "ours"))


def turn(loss: Callable[[Case], Tensor], case: Case, precision: str) -> Callable[[], None]:
    def run() -> None:
        case.features.grad = None
        pass_through(loss, case, precision)

    return run


def pass_through(loss: Callable[[Case], Tensor], case: Case, precision: str) -> None:
    """Forward and backward, scaled as a window scales a beat."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != "fp32"):
        summed = loss(case)
    (summed / len(case.targets)).backward()


def peak(loss: Callable[[Case], Tensor], case: Case, precision: str) -> float:
    """By how much one forward and backward pass raises the memory of this process, in MiB."""
    case.clear()
    pass_through(loss, case, precision)  # what is loaded or made once
    case.features.grad = None
    return risen(lambda: pass_through(loss, case, precision))


def judge(case: Case) -> tuple[Tensor, Tensor]:
    """The gradients of weight and features in float64, 256 rows at a time."""
    weight = case.weight.detach().double()
    of_weight, of_features = torch.zeros_like(weight), torch.zeros(case.features.shape).double()
    for first in range(0, len(case.targets), ROWS):
        x, t = case.features.detach()[first : first + ROWS].double(), case.targets[first:][:ROWS]
        rows = (t != -100).nonzero().squeeze(1)
        gradient = (x[rows] @ weight.T).softmax(1)
        gradient[torch.arange(len(rows)), t[rows]] -= 1
        gradient /= len(case.targets)
        of_features[first + rows] = gradient @ weight
        of_weight.addmm_(gradient.T, x[rows])
    return of_weight, of_features


if __name__ == "__main__":
    main()
