"""A hook that records, layer by layer, the gradient, the weights and how far they move."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from metronorm.errors import ConfigError
from metronorm.norm import observe as observe_norms
from metronorm.optim.blocks import local
from metronorm.train.task import Hook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from torch import Tensor, nn

    from metronorm.norm.observe import NormObserver
    from metronorm.train.task import Moment


def observe(every: int = 100) -> Hook:
    """Numbers on every layer, at every `every`-th tick, in the record of that tick.

    | metric | what it is |
    | --- | --- |
    | `gradient.LAYER` | 2-norm of what the optimizer steps with; of Ticks, the accumulated sum |
    | `weight.LAYER` | 2-norm of the weights after the update |
    | `update.LAYER` | 2-norm of how far they moved |
    | `norm.LAYER.NUMBER` | what `metronorm.norm.observe` says of a norm layer |

    A layer is a module with parameters of its own. In these ticks one more copy of the weights is
    held, and the device is waited for once.

    Raises:
        ConfigError: `every` below 1.
    """
    watch = _Layers(every)
    return Hook(every, watch.log, phase="observe", around=watch.around)


class _Layers:
    """What was seen in the tick that is being observed."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._norms: NormObserver | None = None
        self._looked = False
        self._found: dict[str, Tensor] = {}  # squares of norms

    @contextlib.contextmanager
    def around(self, moment: Moment) -> Iterator[None]:
        """Look at the tick inside the block."""
        self._found = {}
        with contextlib.ExitStack() as stack:
            if norms := self._norm_observer(moment.model):
                stack.enter_context(norms.at(moment.tick))
            hook = moment.optimizer.register_step_pre_hook(lambda *_: self._before(moment.model))
            stack.callback(hook.remove)
            yield
        for name, now in _weights(moment.model).items():
            before = self._found.pop(f"before.{name}")
            self._found[f"update.{name}"] = (now - before).norm() ** 2
            self._found[f"weight.{name}"] = now.norm() ** 2

    def _before(self, model: nn.Module) -> None:
        for name, weights in _weights(model).items():
            self._found[f"before.{name}"] = weights
        for name, module in _layers(model):
            gradients = [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
            if gradients:
                self._found[f"gradient.{name}"] = _flat(gradients).norm() ** 2

    def _norm_observer(self, model: nn.Module) -> NormObserver | None:
        if not self._looked:
            self._looked = True
            with contextlib.suppress(ConfigError):  # a model without norm layers
                self._norms = observe_norms(model, self._every)
        return self._norms

    def log(self, moment: Moment) -> None:
        """Put the numbers into the tick's record."""
        names = list(self._found)
        squares = torch.stack([self._found[name].double() for name in names])
        if any(isinstance(each, DTensor) for each in moment.model.parameters()):
            distributed.all_reduce(squares)  # each rank has the squares of its parts
        values = squares.sqrt().tolist()
        moment.clock.log(**dict(zip(names, values, strict=True)))
        if self._norms:
            moment.clock.log(**self._norms.numbers())


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name or type(module).__name__, module)
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]


@torch.no_grad()
def _weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of each layer's weights as one vector; of DTensors, of what this rank has."""
    return {name: _flat(list(module.parameters(recurse=False))) for name, module in _layers(model)}


def _flat(tensors: list[Any]) -> Tensor:
    return torch.cat([local(tensor.detach()).float().flatten() for tensor in tensors])
