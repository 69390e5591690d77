"""How a pass of one beat is made, on one process and on many.

| | parameters | the gradients of a window |
| --- | --- | --- |
| one process | whole | are added by autograd |
| ddp | whole on each rank | are added on each rank, and averaged over ranks in the last pass |
| fsdp | a part on each rank | are averaged over ranks in each pass; each rank adds up its part |

Every rank makes as many passes in a window as the others. One that has no beat left adds zeros:

| a pass without a beat | what the rank does |
| --- | --- |
| ddp, the last of the window | its gradients are zeros; nothing is computed |
| ddp, another one | nothing |
| fsdp | it goes along, as layers are gathered in each pass; zeros take the place of its gradients |
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from metronorm.errors import ConfigError
from metronorm.train.passes import Alone
from metronorm.train.sharded import Sharded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from metronorm.train.config import TrainConfig
    from metronorm.train.passes import Passes
    from metronorm.train.rank_beats import Beat
    from metronorm.train.task import Batch, Task
    from metronorm.train.world import World


# those that change are sent once a tick instead; see `Step`
_names = inspect.signature(DistributedDataParallel).parameters
_WITHOUT_BUFFERS: dict[str, Any] = {
    next(each for each in ("forward_sync_buffers", "broadcast_buffers") if each in _names): False
}


class Replicated(Alone):
    """The passes of DDP, which is around the loss: so a task may call its model in any way.

    Args:
        task: whose loss.
        call: the model, or what `torch.compile` made of it.
        model: whole; all ranks get the weights of rank 0.
    """

    def __init__(self, task: Task, call: nn.Module, model: nn.Module) -> None:
        super().__init__(task, call)
        self.reducing = DistributedDataParallel(
            _LossOf(task, call, model),
            **_WITHOUT_BUFFERS,
            gradient_as_bucket_view=True,  # no second copy of the gradients
            find_unused_parameters=True,  # what a beat does not use would else be waited for
        )

    def loss(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`. What comes of the last beat averages the whole window's gradients."""
        if last:
            loss: Tensor = self.reducing(None if beat.is_idle else beat.batch, weight)
            return loss
        return None if beat.is_idle else super().loss(beat, weight, last=last)

    def accumulate(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`. A pass of zeros after the last beat averages the window's gradients."""
        part = None if beat.is_idle else super().accumulate(beat, weight, last=last)
        if last:
            self.reducing(None, weight).backward()
        return part


class _LossOf(nn.Module):
    """The loss as a module, for DDP to look into; without a batch nothing has a gradient."""

    def __init__(self, task: Task, call: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # DDP warns where all parameters are used, as it need not look for others then; it must
        self.never_used = nn.Parameter(next(model.parameters()).detach().new_zeros(1))
        self._task, self._call = task, [call]  # in a list, as it is no other module

    def forward(self, batch: Any, weight: float) -> Tensor:
        if batch is None:
            trained = [each for each in self.model.parameters() if each.requires_grad]
            zero: Tensor = _Zero.apply(*trained)  # type: ignore[no-untyped-call]
            return zero
        return self._task.loss(self._call[0], batch) * weight


class _Zero(torch.autograd.Function):
    """A loss of zero that depends on parameters, and adds nothing to their gradients."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.number = len(parameters)
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[None, ...]:
        number: int = ctx.number
        return (None,) * number


def make_passes(
    task: Task,
    model: nn.Module,
    call: nn.Module,
    config: TrainConfig,
    world: World,
    trial: Batch,
) -> Passes:
    """The passes of a training.

    Args:
        task: whose loss.
        model: whole, on its device; with `fsdp` its parameters become DTensors.
        call: the model, or what `torch.compile` made of it.
        config: says which.
        world: the ranks.
        trial: the first batch, on the model's device.

    Raises:
        ConfigError: the model cannot be shared in this way.
    """
    if world.size == 1:
        return Alone(task, call)
    if config.parallel == "ddp":
        return Replicated(task, call, model)
    if config.compile:
        for layer in layers_of(model):
            layer.compile()
    return Sharded(task, model, layers_of(model), world, trial)


def check_whole(model: nn.Module) -> None:
    """Look whether a model is as it was written: the loop itself shares it between processes.

    Raises:
        ConfigError: a wrapper has it.
    """
    wrappers = (DistributedDataParallel, FullyShardedDataParallel, FSDPModule)
    found = {type(each).__name__ for each in model.modules() if isinstance(each, wrappers)}
    found |= {"DTensor" for each in model.parameters() if isinstance(each, DTensor)}
    if found:
        raise ConfigError(
            "a task must give its model whole: the loop shares it between processes",
            got=", ".join(sorted(found)),
            fix="the model without its wrapper, and --parallel ddp or fsdp",
        )


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model: what its outermost lists and sequences hold."""
    if isinstance(model, nn.ModuleList | nn.Sequential):
        return [each for each in model if next(each.parameters(), None) is not None]
    return [layer for child in model.children() for layer in layers_of(child)]


def keep_activations(layers: Sequence[nn.Module]) -> None:
    """Undo `recompute`."""
    for layer in layers:
        vars(layer).pop("forward", None)


def recompute(layers: Sequence[nn.Module]) -> None:
    """Let layers forget their activations, and compute them again in the backward pass.

    Raises:
        ConfigError: there are no layers.
    """
    if not layers:
        raise ConfigError(
            "activation checkpointing is for a model with layers in an nn.ModuleList or "
            "nn.Sequential",
            got="none",
        )
    for layer in layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
