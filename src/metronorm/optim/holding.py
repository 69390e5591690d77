"""A step that never waits: the device itself decides whether parameters move.

To read one number of a GPU on the host, the host must wait until the GPU has done all its work. So
whether a gradient is finite stays on the device, as a 0-dim bool tensor: where it is True, the
update is computed, and nothing takes it over. The host reads the flag when it waits anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from metronorm.errors import ConfigError, DivergenceError
from metronorm.optim._torch_private import found_inf, step_with_found_inf
from metronorm.optim.blocks import any_nonfinite, local
from metronorm.optim.limits import sharing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from metronorm.optim.accumulator import Accumulator


def held_after(held: Tensor, tensors: Sequence[Tensor], *, on_all_ranks: bool = False) -> Tensor:
    """Whether parameters stay as they are: they were held, or some element is not finite.

    The ranks that share the tensors agree, by a collective that the host does not wait for.

    Args:
        held: a 0-dim bool tensor. It is not changed.
        tensors: gradients on this rank, on the device of `held`. DTensors name the ranks that share
            them.
        on_all_ranks: whether all ranks have parts, although the tensors do not say so (FSDP1).

    Returns:
        Another 0-dim bool tensor on the same device.

    Raises:
        ConfigError: the tensors are on several devices.
    """
    if not tensors:
        return held
    devices = {held.device} | {local(tensor).device for tensor in tensors}
    if len(devices) > 1:
        raise ConfigError(
            'on_nonfinite="hold" needs all parameters on one device, which decides alone',
            got=", ".join(sorted(map(str, devices))),
            fix='one optimizer per device, or on_nonfinite="raise"',
        )
    held = held | any_nonfinite(tensors)
    groups = sharing(tensors, on_all_ranks=on_all_ranks)
    if not groups:
        return held
    flag = held.float()
    for group in groups:
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=group)
    return flag.bool()


def check_flag(flag: Tensor, device: torch.device) -> None:
    """Refuse a flag that is not on the device, or is no flag.

    Raises:
        ConfigError: names what arrived.
    """
    given = flag if isinstance(flag, torch.Tensor) else None
    if given is None or given.dtype != torch.bool or given.ndim or given.device != device:
        raise ConfigError(
            f"a flag must be a 0-dim bool tensor on {device}, where the parameters are",
            got=type(flag).__name__
            if given is None
            else f"shape {tuple(given.shape)}, {given.dtype}, on {given.device}",
            fix="~loss.isfinite()",
        )


def step_or_hold(optimizer: Accumulator, held: Tensor) -> Tensor:
    """`step()` of one of our optimizers, unless `held` or its gradient is not finite.

    With `on_nonfinite="hold"` the device decides, and nothing waits. With "raise" the host looks,
    which on a CPU costs less; the error of the optimizer becomes a flag too.

    Args:
        optimizer: with either.
        held: a 0-dim bool tensor on the device of the parameters.

    Returns:
        Whether the parameters stayed as they were, as such a tensor.
    """
    if optimizer.decides_on_device:
        optimizer.hold(held)
        optimizer.step()
        return optimizer.held
    if held:
        return held
    try:
        optimizer.step()
    except DivergenceError:
        return torch.ones_like(held)
    return held


def step_unless(optimizer: Optimizer, held: Tensor) -> None:
    """`step()` of one of torch's fused optimizers, which changes nothing where `held` is True.

    Parameters, moments and the count of steps stay as they are. Nothing waits for the device.

    Args:
        optimizer: AdamW, Adam or SGD of torch, with `fused=True`.
        held: a 0-dim bool tensor on the device of the parameters, for example from `held_after`.

    Raises:
        ConfigError: the optimizer is not fused, or `held` is not such a tensor.
    """
    if not all(group.get("fused") for group in optimizer.param_groups):
        raise ConfigError(
            "only the fused kernels of torch can leave out a step on the device",
            got=f"{type(optimizer).__name__} with a group that is not fused",
            fix="fused=True",
        )
    check_flag(held, local(optimizer.param_groups[0]["params"][0]).device)
    flag = found_inf(held)
    assert flag is not None
    step_with_found_inf(optimizer, flag)
