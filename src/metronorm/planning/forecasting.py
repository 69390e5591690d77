"""The most memory that a training on one process will hold, found before its first tick.

| part | found by |
| --- | --- |
| process | what is resident now, without the parameters: the interpreter, libraries, data |
| parameters, averages | their bytes; buffers are among the parameters |
| gradients, optimizer | two ticks of a few elements by the same optimizer; their bytes for all |
| activations | a beat of the largest batch, in which every tensor is counted; the head among them |
| checkpoint | a copy of what trains, of the optimizer's state and of the averages, if one is made |

The fullest moment is in a beat, or at the end, where the last checkpoint is copied. Earlier
checkpoints are held in every beat after them. What was held before, as by the loading of the
model, is a peak too. Not counted: what an update needs for a moment, hooks, and compiled models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from metronorm.allocator import give_back
from metronorm.checkpoints.taking import distinct
from metronorm.memory import peak_bytes, resident_bytes
from metronorm.text import size
from metronorm.train.optimizers import default_groups, make_optimizer
from metronorm.train.saving import most_copied

if TYPE_CHECKING:
    from torch import Tensor

    from metronorm.train.preparing import Preparation
    from metronorm.train.step import Step


@dataclass(frozen=True)
class Forecast:
    """What a training will hold at its fullest moment.

    Attributes:
        held: bytes by what they are.
        before: the most bytes that the process has held up to now.
    """

    held: dict[str, int]
    before: int

    @property
    def total_held(self) -> int:
        """The bytes of all parts."""
        return sum(self.held.values())

    @property
    def total(self) -> int:
        """The most bytes that the process will hold."""
        return max(self.before, self.total_held)

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size(each)}" for name, each in self.held.items() if each)
        if self.before > self.total_held:
            return f"{size(self.before)}, which it held before the first tick (then {parts})"
        return f"{size(self.total)} ({parts})"


@dataclass(frozen=True)
class Resting:
    """What a training holds whatever its micro-batches are, in bytes.

    Attributes:
        process: the interpreter, libraries and data.
        parameters: and buffers.
        gradients: of one tick, as far as they are not the optimizer's own sums.
        optimizer: its state.
        averages: of the weights.
        checkpoint: the copies that one takes.
        early: whether a checkpoint may be taken before the last tick.
        new: of the gradients, those that each tick makes anew.
    """

    process: int
    parameters: int
    gradients: int
    optimizer: int
    averages: int
    checkpoint: int
    early: bool
    new: int

    def with_beats(self, activations: int, micro_batches: int) -> Forecast:
        """The forecast of beats that take so many bytes, and of the process as it is now.

        Args:
            activations: of one beat, without gradients that stay.
            micro_batches: beats in a tick.
        """
        kept = {
            "process": self.process,
            "parameters": self.parameters,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "averages": self.averages,
        }
        if micro_batches == 1:  # gradients come while activations go
            activations = max(0, activations - self.new)
        copies = {"checkpoint copy": self.checkpoint}
        beat = kept | {"activations": activations} | (copies if self.early else {})
        end = kept | {"gradients": self.gradients - self.new} | copies
        return Forecast(max(beat, end, key=lambda each: sum(each.values())), peak_bytes())


def resting(ready: Preparation) -> Resting | None:
    """Find what a training holds, before it has an optimizer; None where the system does not say.

    Args:
        ready: on one process, on a CPU, and with nothing but parameters and buffers.
    """
    step, config = ready.step, ready.step.config
    give_back()  # what was tried out
    resident = resident_bytes()
    if resident is None or step.device.type != "cpu" or ready.world.size > 1:
        return None
    model = step.model
    parameters = sum(each.nbytes for each in _distinct((*model.parameters(), *model.buffers())))
    state = _state(step)
    averages = sum(each.nbytes for each in ready.averages.tensors().values())
    weights = sum(each.nbytes for each in distinct(model.state_dict(keep_vars=True)).values())
    copied = weights + state.saved + averages
    most = most_copied(step.device)
    ticks = math.inf if config.minutes else config.ticks
    evaluates = step.task.validation is not None and config.evaluate_every < ticks
    return Resting(
        process=max(0, resident - parameters),
        parameters=parameters,
        gradients=state.gradients,
        optimizer=state.own,
        averages=averages,
        checkpoint=copied if most is None or copied <= most else 0,
        early=evaluates or config.checkpoint_every < ticks,
        new=state.new,
    )


class _Bytes(NamedTuple):
    """Of what belongs to some parameters: gradients and what an optimizer keeps."""

    gradients: int  # at the end of a beat
    new: int  # of these, what is gone after the update
    own: int  # of the optimizer, other than gradients
    saved: int  # of the optimizer, gradients that it keeps included

    def times(self, factor: float) -> _Bytes:
        return _Bytes(*(round(factor * each) for each in self))


def _state(step: Step) -> _Bytes:
    """What all parameters that train will have, measured on a few elements of each kind."""
    config, model = step.config.optimizer, step.model
    groups = step.task.groups(model, step.config) if step.task.groups else None
    groups = default_groups(model, config) if groups is None else groups
    kinds: dict[tuple[int, torch.dtype, bool], nn.Parameter] = {}
    elements: dict[tuple[int, torch.dtype, bool], int] = {}
    small = []
    for number, group in enumerate(groups):
        for each in group["params"]:
            if not each.requires_grad:
                continue
            kind = (number, each.dtype, each.dim() > 1)
            shape = (8,) * (2 if each.dim() > 1 else 1)
            kinds.setdefault(kind, nn.Parameter(each.new_zeros(shape)))
            elements[kind] = elements.get(kind, 0) + each.numel()
        mine = [kinds[kind] for kind in kinds if kind[0] == number]
        small.append({**group, "params": mine})
    trained = list(kinds.values())
    optimizer = make_optimizer(nn.ParameterList(trained), config, step.device, small)

    def beat() -> None:
        for each in trained:
            (each.real if each.is_complex() else each).sum().backward()

    for _ in range(2):
        beat()
        optimizer.step()
        optimizer.zero_grad()
    kept = [_bytes(each.grad) for each in trained]
    beat()
    saved = optimizer.state_dict()["state"]
    order = [each for group in optimizer.param_groups for each in group["params"]]
    total = _Bytes(0, 0, 0, 0)
    for (kind, each), before in zip(kinds.items(), kept, strict=True):
        state = [t for t in optimizer.state[each].values() if isinstance(t, torch.Tensor)]
        of_all = saved.get(next(n for n, other in enumerate(order) if other is each), {})
        found = _Bytes(
            gradients=_bytes(each.grad),
            new=_bytes(each.grad) - before,
            own=sum(_bytes(t) for t in state if t is not each.grad),
            saved=sum(_bytes(t) for t in of_all.values() if isinstance(t, torch.Tensor)),
        ).times(elements[kind] / each.numel())
        total = _Bytes(*(a + b for a, b in zip(total, found, strict=True)))
    return total


def _bytes(tensor: Tensor | None) -> int:
    """Of a tensor that grows with its parameter; counters of steps are nothing."""
    return tensor.nbytes if tensor is not None and tensor.dim() else 0


def _distinct(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Each storage once."""
    return list({each.untyped_storage().data_ptr(): each for each in tensors}.values())
