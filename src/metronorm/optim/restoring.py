"""Train for a while and undo it: trials on a model that is in the middle of its training."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from metronorm.optim._torch_private import buffers_of
from metronorm.optim.accumulator import Accumulator
from metronorm.optim.blocks import shares_elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextlib.contextmanager
def restoring(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """Context manager that undoes a training, also after an exception, for one more copy of it.

    Afterwards these are the same objects as before, with the same bits: parameters, their
    gradients, buffers, the modules' modes, and the optimizer with its state and param groups. So is
    torch's random state, on the CPU and on the devices that hold any of these. Other attributes of
    modules stay changed.

    Args:
        model: its parameters, buffers and modes.
        optimizer: any of torch's interface; its parameters may be others than the model's.
    """
    parameters = list(model.parameters())
    parameters += [each for group in optimizer.param_groups for each in group["params"]]
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(each, each.grad) for each in parameters]
    found: dict[int, Any] = {}
    _find([parameters, [each for _, each in gradients]], found)
    _find([buffers_of(module) for module in model.modules()], found)
    _find([optimizer, optimizer.state, optimizer.param_groups], found)
    ours = [each for each in found.values() if isinstance(each, Accumulator)]
    held = [each._sums.beats.hold_versions() for each in ours]
    copies = [(each, _copy(each)) for each in found.values() if not isinstance(each, Optimizer)]
    with _random_state({each.device for each in found.values() if isinstance(each, torch.Tensor)}):
        try:
            for each in ours:  # trials begin new windows, wherever this window is
                each._close_window()
            yield
        finally:
            for each, copy in copies:
                _put_back(each, copy)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, mode in modes:
                module.training = mode
            for put_back in held:
                put_back()


def _find(value: Any, found: dict[int, Any]) -> None:
    """Collect what can change in place and can be reached from a value, by id."""
    if id(value) in found or (isinstance(value, torch.Tensor) and shares_elements(value)):
        return
    if isinstance(value, torch.Tensor | dict | list | Optimizer):
        found[id(value)] = value
    if isinstance(value, Optimizer):  # perhaps inside of another one that wraps it
        _find(vars(value), found)
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            _find(each, found)


def _copy(value: Any) -> Any:
    """A copy of a tensor; for a dictionary or list, which objects are in it."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return dict(value) if isinstance(value, dict) else list(value)


@torch.no_grad()
def _put_back(value: Any, copy: Any) -> None:
    if isinstance(value, torch.Tensor):
        value.copy_(copy)
    elif isinstance(value, dict):
        for key in [key for key in value if key not in copy]:
            del value[key]
        value.update(copy)
    else:
        value[:] = copy


def _random_state(devices: set[torch.device]) -> contextlib.AbstractContextManager[None]:
    accelerator = torch.accelerator.current_accelerator()
    kind = "cuda" if accelerator is None else accelerator.type
    devices = {device for device in devices if device.type == kind}
    return torch.random.fork_rng(list(devices), device_type=kind)
