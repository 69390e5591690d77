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
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from metronorm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from metronorm.train.config import TrainConfig
    from metronorm.train.rank_beats import Beat
    from metronorm.train.task import Task
    from metronorm.train.world import World


class Passes(Protocol):
    """Makes the forward pass of a beat. Without a tensor there is nothing to go back through.

    Attributes:
        reducing: the module whose backward pass averages gradients over ranks.
    """

    reducing: nn.Module

    def loss(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """The weighted loss.

        Args:
            beat: of this rank.
            weight: of its summed loss.
            last: whether it is the last of the window.
        """

    def accumulate(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """The same of a task that calls backward() itself: the loss is detached."""


class Alone:
    """The passes of one process.

    Args:
        task: whose loss.
        call: the model, or what `torch.compile` made of it.
    """

    def __init__(self, task: Task, call: nn.Module) -> None:
        self._task, self._call, self.reducing = task, call, call

    def loss(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`."""
        return self._task.loss(self._call, beat.batch) * weight

    def accumulate(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`."""
        assert self._task.accumulate is not None
        return self._task.accumulate(self._call, beat.batch, weight).detach()


class Replicated(Alone):
    """The passes of DDP, which is around the loss: so a task may call its model in any way.

    Args:
        task: whose loss.
        call: the model, or what `torch.compile` made of it.
        model: whole; all ranks get the weights of rank 0.
        unused: names of the parameters without a gradient.
    """

    def __init__(self, task: Task, call: nn.Module, model: nn.Module, unused: set[str]) -> None:
        super().__init__(task, call)
        self.reducing = DistributedDataParallel(
            _LossOf(task, call, model, unused),
            gradient_as_bucket_view=True,  # no second copy of the gradients
            find_unused_parameters=bool(unused),
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
    """The loss as a module, for DDP to look into; without a batch it is one with zero gradients."""

    def __init__(self, task: Task, call: nn.Module, model: nn.Module, unused: set[str]) -> None:
        super().__init__()
        self.model = model
        self._task, self._call = task, [call]  # in a list, as it is no other module
        self._used = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and name not in unused
        ]

    def forward(self, batch: Any, weight: float) -> Tensor:
        if batch is None:
            zero: Tensor = _Zero.apply(*self._used)  # type: ignore[no-untyped-call]
            return zero
        return self._task.loss(self._call[0], batch) * weight


class _Zero(torch.autograd.Function):
    """A loss of zero whose gradients are zeros, whatever the parameters hold: 0 * NaN is NaN."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.zeros_like, ctx.parameters))


class Sharded(Alone):
    """The passes of FSDP2: each rank has a part of each parameter, gathered layer by layer.

    Args:
        task: whose loss.
        model: whole, with the same weights on all ranks; afterwards its parameters are DTensors.
        layers: modules whose parameters are gathered together.
        world: the ranks.
    """

    def __init__(
        self, task: Task, model: nn.Module, layers: Sequence[nn.Module], world: World
    ) -> None:
        super().__init__(task, model)
        mesh = init_device_mesh(next(model.parameters()).device.type, (world.size,))
        self._reduce = _ReduceScatter()
        called = cast("Any", self._reduce)  # torch calls it, and does not look at its class
        for module in (*layers, model):
            fully_shard(module, mesh=mesh).set_custom_reduce_scatter(called)

    def loss(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`. Its backward pass averages the gradients of the beats of all ranks."""
        self._reduce.sends_zeros = beat.is_idle
        return super().loss(beat, weight, last=last)

    def accumulate(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`."""
        self._reduce.sends_zeros = beat.is_idle
        return super().accumulate(beat, weight, last=last)


class _ReduceScatter:
    """The reduce-scatter of `fully_shard`, for ranks some of which send zeros."""

    sends_zeros = False

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: Any,
        op: Any,
        async_op: bool = False,
    ) -> Any:
        if self.sends_zeros:
            input_tensor.zero_()
        # its older name is deprecated
        reduce = getattr(distributed, "reduce_scatter_single", None)
        return (reduce or distributed.reduce_scatter_tensor)(
            output_tensor, input_tensor, op=op, group=group, async_op=async_op
        )


def make_passes(
    task: Task,
    model: nn.Module,
    call: nn.Module,
    config: TrainConfig,
    world: World,
    unused: set[str],
) -> Passes:
    """The passes of a training.

    Args:
        task: whose loss.
        model: whole, on its device; with `fsdp` its parameters become DTensors.
        call: the model, or what `torch.compile` made of it.
        config: says which.
        world: the ranks.
        unused: names of the parameters without a gradient.
    """
    if world.size == 1:
        return Alone(task, call)
    if config.parallel == "ddp":
        return Replicated(task, call, model, unused)
    return Sharded(task, model, layers_of(model), world)


def gather_anew(model: nn.Module) -> None:
    """Let FSDP2 gather parameters again that were changed since it has gathered them."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model: what its outermost lists and sequences hold."""
    if isinstance(model, nn.ModuleList | nn.Sequential):
        return [each for each in model if next(each.parameters(), None) is not None]
    return [layer for child in model.children() for layer in layers_of(child)]


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
