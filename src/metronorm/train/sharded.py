"""The passes of FSDP2. All ranks gather a layer's parameters together, whenever it is called.

So a rank must call the layers that the others call, in their order, and have gradients of the same
parameters: else what ranks send to each other is mixed up, or they wait for each other for ever.
Every pass is compared with one of the first batch, and refused before anything wrong is sent.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from metronorm.errors import ConfigError
from metronorm.train.passes import Alone
from metronorm.train.precision import discarding_gradients
from metronorm.train.rank_beats import Beat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from metronorm.train.task import Batch, Task
    from metronorm.train.world import World

_DDP = "--parallel ddp"


class Sharded(Alone):
    """Each rank has a part of each parameter, and they are gathered layer by layer.

    Args:
        task: whose loss.
        model: whole; all ranks get the weights of rank 0, and afterwards the parameters are
            DTensors.
        layers: modules whose parameters are gathered together.
        world: the ranks.
        trial: the first batch, on the model's device.

    Raises:
        ConfigError: the model cannot be sharded.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        layers: Sequence[nn.Module],
        world: World,
        trial: Batch,
    ) -> None:
        super().__init__(task, model)
        units = _units(model, layers)
        self.sends_zeros = False
        self._calls: list[str] = []
        self._number: int | None = None  # of the next call in the pass that is being made
        with discarding_gradients(model):
            self._look_at(units, Beat(0, trial))
            reduced = [self._reduce_scatter(unit, world.size) for unit in units]
        _check(units, self._calls)
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.detach(), 0)
        mesh = init_device_mesh(next(model.parameters()).device.type, (world.size,))
        for unit, reduce in zip(units, reduced, strict=True):
            try:
                fully_shard(unit.module, mesh=mesh)
            except (ValueError, NotImplementedError, AssertionError) as error:
                raise _refused(str(error)) from None
            # torch calls it, and does not look at its class
            cast("FSDPModule", unit.module).set_custom_reduce_scatter(cast("Any", reduce))
            unit.module.register_forward_pre_hook(partial(self._called, unit.name), prepend=True)

    def loss(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`. Its backward pass averages the gradients of the beats of all ranks."""
        with self._pass(beat):
            return super().loss(beat, weight, last=last)

    def accumulate(self, beat: Beat, weight: float, *, last: bool) -> Tensor | None:
        """See `Passes`."""
        with self._pass(beat):
            return super().accumulate(beat, weight, last=last)

    def _look_at(self, units: Sequence[_Unit], beat: Beat) -> None:
        """Make a pass, and note which units it calls, and which gradients come of it."""
        hooks = [
            unit.module.register_forward_pre_hook(
                lambda *_, name=unit.name: self._calls.append(name)
            )
            for unit in units
        ]
        if self._task.accumulate is not None:
            super().accumulate(beat, 1.0, last=True)
            noted = len(self._calls)
        else:
            loss = super().loss(beat, 1.0, last=True)
            noted = len(self._calls)  # the backward pass may call some again
            assert loss is not None
            loss.backward()
        del self._calls[noted:]
        for hook in hooks:
            hook.remove()

    @contextlib.contextmanager
    def _pass(self, beat: Beat) -> Iterator[None]:
        self.sends_zeros, self._number = beat.is_idle, 0
        yield
        if self._number != len(self._calls):
            raise _another(f"the end after {self._number} calls", f"{len(self._calls)}")
        self._number = None

    def _called(self, name: str, *_: Any) -> None:
        """Before a unit's parameters are gathered, in a pass."""
        if self._number is None:
            return
        expected = self._calls[self._number : self._number + 1]
        if expected != [name]:
            raise _another(f"a call of {name}", expected[0] if expected else "the end")
        self._number += 1

    def _reduce_scatter(self, unit: _Unit, ranks: int) -> _ReduceScatter:
        sizes = [each.shape for each in unit.parameters if each.grad is not None]
        padded = [-(-size[0] // ranks) * ranks * size[1:].numel() for size in sizes if size]
        return _ReduceScatter(self, unit.name, sum(padded))


class _ReduceScatter:
    """The reduce-scatter of a unit, for ranks some of which send zeros.

    Args:
        passes: say whether this rank does.
        name: of the unit.
        elements: of its gradients, padded.
    """

    def __init__(self, passes: Sharded, name: str, elements: int) -> None:
        self._passes, self._name, self._elements = passes, name, elements

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
        if input_tensor.numel() != self._elements:
            raise _another(f"gradients of other parameters in {self._name}", "the same")
        if self._passes.sends_zeros:
            input_tensor.zero_()
        # its older name is deprecated
        reduce = getattr(distributed, "reduce_scatter_single", None)
        return (reduce or distributed.reduce_scatter_tensor)(
            output_tensor, input_tensor, op=op, group=group, async_op=async_op
        )


class _Unit(NamedTuple):
    """Parameters that are gathered together: those of a module that are in no other unit's."""

    name: str
    module: nn.Module
    parameters: list[nn.Parameter]


def _units(model: nn.Module, layers: Sequence[nn.Module]) -> list[_Unit]:
    """The layers, and the model with the rest.

    Raises:
        ConfigError: a parameter is in two of them.
    """
    names = {module: name for name, module in model.named_modules()}
    inside = {module for layer in layers for module in layer.modules()}
    rest = [module for module in model.modules() if module not in inside]
    owner: dict[nn.Parameter, nn.Module] = {}
    for unit, modules in [*((layer, layer.modules()) for layer in layers), (model, rest)]:
        for module in modules:
            for parameter in module.parameters(recurse=False):
                if owner.setdefault(parameter, unit) is not unit:
                    first, second = (
                        names[each] or "the model" for each in (owner[parameter], unit)
                    )
                    raise _refused(f"a parameter that {first} and {second} share")
    return [
        _Unit(
            names[unit] or type(model).__name__,
            unit,
            [parameter for parameter, found in owner.items() if found is unit],
        )
        for unit in (*dict.fromkeys(layers), model)
    ]


def _check(units: Sequence[_Unit], calls: Sequence[str]) -> None:
    """Raise ConfigError for a model that cannot be gathered unit by unit."""
    for unit in units:
        used = [each for each in unit.parameters if each.grad is not None]
        if used and unit.name not in calls:
            raise ConfigError(
                "with fsdp a loss must call the model and its layers themselves, as that is when "
                "their parameters are gathered",
                got=f"one that uses {unit.name} in another way",
                fix=f"model(...) in the loss, or {_DDP}",
            )
        dtypes = {str(each.dtype) for each in unit.parameters}
        if len(dtypes) > 1:
            raise _refused(f"parameters of {' and '.join(sorted(dtypes))} in {unit.name}")
    if units[-1].parameters and calls[0] != units[-1].name:
        raise _refused(f"a loss that calls {calls[0]} before the model")


def _refused(got: str) -> ConfigError:
    return ConfigError("fsdp must be able to shard a model layer by layer", got=got, fix=_DDP)


def _another(found: str, expected: str) -> ConfigError:
    return ConfigError(
        "with fsdp every beat must call the same layers, and use the same parameters, as the first",
        got=f"{found} instead of {expected}",
        fix=_DDP,
    )


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside the block, other methods of a model than its forward may be called too, on all ranks.

    FSDP2 gathers what is outside of the layers when the model itself is called. A model that is not
    sharded is as it is.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def gather_anew(model: nn.Module) -> None:
    """Let FSDP2 gather parameters again that were changed since it has gathered them."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
