"""What each of N processes would hold and send, predicted from one process.

Of a training with J beats in a tick, each process makes R = ceil(J / N) rounds. P, G, S, V are the
bytes of parameters, gradients, optimizer state and averages on one process; A, of the activations
of one beat, is measured there. A tensor is divided over N processes by rows: each gets
ceil(rows / N) of them, and `/N` below means that.

| a process holds | one process | ddp | fsdp |
| --- | --- | --- | --- |
| parameters | P | P | P/N, and buffers whole |
| gradients | G | G in buckets; G more if R > 1 or the task calls `backward()` | G/N |
| optimizer | S; what is `.grad` itself is counted there | S, and what was `.grad` | S/N |
| averages | V | V | V/N |
| gathered | 0 | 0 | see below |
| activations | A | A; at least G if zeros are added, see `train/parallel.py` | A |

If R = 1, gradients that are new in each tick come while the activations go. Except for the buckets
of ddp, which are there all the time, they are subtracted from A.

FSDP2 gathers the parameters outside of all layers (p, gradients g) for the whole pass. In the
backward pass of layer i these are whole at once: its parameters and gradients, the parameters of
layer i - 1, which are fetched early, and the gradients of layer i + 1, which are on their way.
Gathered is p + g + the largest such sum.

| a process sends in a tick | ddp | fsdp |
| --- | --- | --- |
| parameters | 0 | R (N - 1)/N (2 P - p): layers are gathered in both passes |
| gradients | 2 (N - 1)/N G | R (N - 1)/N G; over gloo 2 R (N - 1)/N G |
| matrices of Muon (M) | 0 | (N - 1)/N M |

Not counted: the interpreter and its libraries, what an update needs for a moment, evaluations,
copies for checkpoints, and the few numbers by which processes keep in step. A model that a loss
calls twice is gathered twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.train.optimizers import check_processes
from metronorm.train.parallel import layers_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from metronorm.train.averages import Averages
    from metronorm.train.step import Step


@dataclass(frozen=True)
class Prediction:
    """What a process would hold at its fullest moment, and send in a tick.

    Attributes:
        processes: how many there would be.
        held: bytes of tensors by what they are.
        sent_bytes: in a tick.
    """

    processes: int
    held: dict[str, int]
    sent_bytes: int

    @property
    def held_bytes(self) -> int:
        """Of all kinds of tensors together."""
        return sum(self.held.values())


def predict(step: Step, averages: Averages, activations: int, processes: int) -> Prediction:
    """Predict what each of several processes would hold and send.

    Args:
        step: of one process, after a tick, and with the gradients of the next.
        averages: of its weights.
        activations: bytes of one beat.
        processes: how many.

    Raises:
        ConfigError: the optimizer is for one process.
    """
    check_processes(step.config.optimizer, processes)
    ddp = processes > 1 and step.config.parallel == "ddp"
    fsdp = processes > 1 and step.config.parallel == "fsdp"
    parts = processes if fsdp else 1
    beats = step.config.micro_batches
    rounds = math.ceil(beats / processes)
    weights = list(step.model.parameters())
    # DDP's buckets have room for all that is trained, those without a gradient included
    trained = [w for w in weights if w.requires_grad and (ddp or w.grad is not None)]
    gradients = [w if w.grad is None else w.grad for w in trained]
    buffers = sum(each.nbytes for each in step.model.buffers())
    held = {
        "parameters": _divided(weights, parts) + buffers,
        "gradients": _divided(gradients, parts),
        "optimizer": _divided(_state(step.optimizer, with_gradients=ddp), parts),
        "averages": _divided(averages.tensors().values(), parts),
    }
    sent, own_loop = 0, step.task.accumulate is not None
    if rounds == 1 and not ddp and not own_loop:
        # they come while the activations go
        kept = {id(each) for each in _state(step.optimizer, with_gradients=True)}
        new = [each for each in gradients if id(each) not in kept]
        activations = max(0, activations - _divided(new, parts))
    if ddp:
        whole = held["gradients"]
        held["gradients"] = whole * (2 if rounds > 1 or own_loop else 1)
        sent = 2 * (processes - 1) * whole // processes
        if beats % processes or own_loop:
            activations = max(activations, whole)
    if fsdp:
        layers = _layers(step, processes)
        held["gathered"] = _gathered(layers)
        sent = rounds * _sent(layers, step.device, processes) + _sent_for_muon(step, processes)
    return Prediction(processes, {**held, "activations": activations}, sent)


class _Layer(NamedTuple):
    """Bytes of what FSDP2 gathers and reduces together, whole, with what is added to divide it."""

    parameters: int
    gradients: int


def _layers(step: Step, processes: int) -> list[_Layer]:
    """The parameters outside of all layers, then the layers in their order."""
    groups = [list(layer.parameters()) for layer in layers_of(step.model)]
    inside = {id(each) for group in groups for each in group}
    outside = [each for each in step.model.parameters() if id(each) not in inside]
    return [
        _Layer(
            processes * _divided(group, processes),
            processes * _divided([each.grad for each in group if each.grad is not None], processes),
        )
        for group in (outside, *groups)
    ]


def _gathered(layers: list[_Layer]) -> int:
    outside, *inside = layers
    around = [_Layer(0, 0), *inside, _Layer(0, 0)]
    together = (
        before.parameters + layer.parameters + layer.gradients + after.gradients
        for before, layer, after in zip(around, inside, around[2:], strict=False)
    )
    return sum(outside) + max(together, default=0)


def _sent(layers: list[_Layer], device: torch.device, processes: int) -> int:
    """Bytes in a pass."""
    outside, *inside = layers
    gathered = outside.parameters + 2 * sum(layer.parameters for layer in inside)
    reduced = sum(layer.gradients for layer in layers)
    if device.type == "cpu":
        reduced *= 2  # gloo reduces all, and gives each process its part
    return (processes - 1) * (gathered + reduced) // processes


def _sent_for_muon(step: Step, processes: int) -> int:
    """Bytes in a tick: matrices are whole where they are orthogonalised."""
    if step.config.optimizer.name != "ticks_muon":
        return 0
    groups = [each for each in step.optimizer.param_groups if each["method"] == "muon"]
    return sum((processes - 1) * _divided(group["params"], processes) for group in groups)


def _state(optimizer: torch.optim.Optimizer, *, with_gradients: bool) -> Iterable[Tensor]:
    """What the optimizer keeps; sums that are `.grad` itself only where they are asked for."""
    for weight, state in optimizer.state.items():
        for value in state.values():
            if isinstance(value, torch.Tensor) and (with_gradients or value is not weight.grad):
                yield value


def _divided(tensors: Iterable[Tensor], parts: int) -> int:
    """Bytes of the largest part of each tensor."""
    return sum(_rows(each, parts) for each in tensors)


def _rows(tensor: Tensor, parts: int) -> int:
    if not tensor.dim() or not tensor.numel():
        return tensor.nbytes
    return math.ceil(len(tensor) / parts) * (tensor.nbytes // len(tensor))
