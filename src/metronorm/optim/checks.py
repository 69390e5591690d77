"""Checks of arguments, gradients and states: one clear error each, before anything changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import CheckpointError, ConfigError
from metronorm.optim._torch_private import is_flattened
from metronorm.optim.blocks import distribute_like, local, shares_elements, sum_dtype
from metronorm.scalars import as_real

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    Group = dict[str, Any]


def as_groups(params: Any) -> list[Any]:
    """Parameters, or groups of them, as the list that `torch.optim.Optimizer` takes.

    Raises:
        ConfigError: a single tensor, something without an order, or nothing.
    """
    if isinstance(params, torch.Tensor):
        raise ConfigError(
            "params must be an iterable of parameters or of groups", got="one tensor", fix="[p]"
        )
    given = _ordered(params)
    if not given:
        raise ConfigError("an optimizer needs at least one parameter", got="none")
    return given


def _ordered(params: Any) -> list[Any]:
    if isinstance(params, set | frozenset) or not isinstance(params, Iterable):
        raise ConfigError(
            "params must be an iterable of parameters or of groups, in a fixed order",
            got=type(params).__name__,
            fix="model.parameters()",
        )
    return list(params)


def check_new(group: Group, others: Sequence[Group]) -> None:
    """Refuse a group with parameters that are known already, or are no parameters.

    `params` of the group becomes a list.

    Raises:
        ConfigError: names the first parameter that cannot be taken.
    """
    if not isinstance(group, dict) or "params" not in group:
        raise ConfigError("a group must be a dict with params", got=repr(group))
    params = group["params"]
    group["params"] = [params] if isinstance(params, torch.Tensor) else _ordered(params)
    named = {isinstance(each, tuple) for each in group["params"]}
    if len(named | {"param_names" in other for other in others}) > 1:
        raise ConfigError("either all parameters have names or none", got="some with, some without")
    known = {id(parameter) for other in others for parameter in other["params"]}
    for tensor in tensors(group):
        if not isinstance(tensor, torch.Tensor) or not tensor.is_leaf:
            raise ConfigError(
                "an optimizer takes parameters: tensors that are leaves", got=type(tensor).__name__
            )
        if id(tensor) in known:
            raise ConfigError(
                "a parameter can be in one group only, once",
                got=f"one of shape {tuple(tensor.shape)} a second time",
            )
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise ConfigError(
                "a parameter must be of floating point or complex", got=str(tensor.dtype)
            )
        known.add(id(tensor))


def check_number(group: Group, name: str, least: float = 0.0, below: float = math.inf) -> None:
    """Refuse a hyper-parameter outside [least, below).

    In the group it becomes a Python number; a tensor stays a tensor.

    Raises:
        ConfigError: it is outside, or is no number.
    """
    value = group[name]
    number = as_real(value)
    if number is None or not least <= number < below:
        most = "" if below == math.inf else f" and below {below:g}"
        raise ConfigError(f"{name} must be at least {least:g}{most}", got=repr(value))
    if not isinstance(value, torch.Tensor | int):
        group[name] = number


def check_on_host(group: Group) -> None:
    """Refuse hyper-parameters on an accelerator: reading them waits for it.

    Raises:
        ConfigError: names the first.
    """
    for name, value in group.items():
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            raise ConfigError(
                f'{name} must be a number on the host, for which on_nonfinite="hold" does not wait',
                got=f"a tensor on {value.device}",
                fix="a Python number, or a tensor on the CPU",
            )


def check_choice(group: Group, name: str, choices: Sequence[Any]) -> None:
    """Refuse a hyper-parameter that is not one of the choices.

    Raises:
        ConfigError: names the choices.
    """
    if group[name] not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name} must be one of {listed}", got=repr(group[name]))


def tensors(group: Group) -> list[Tensor]:
    """The parameters of a group, where an entry can also be a pair of a name and a parameter."""
    return [each[-1] if isinstance(each, tuple) and each else each for each in group["params"]]


def check_betas(group: Group) -> None:
    """Refuse betas outside [0, 1). In the group they become Python numbers.

    Raises:
        ConfigError: they are not two such numbers.
    """
    betas = group["betas"]
    numbers = [as_real(beta) for beta in betas] if isinstance(betas, tuple | list) else []
    known = [beta for beta in numbers if beta is not None and 0 <= beta < 1]
    if not len(known) == len(numbers) == 2:
        raise ConfigError("betas must be two numbers from 0 to below 1", got=repr(betas))
    if not all(isinstance(beta, int | float) for beta in betas):
        group["betas"] = tuple(known)


def check_real(group: Group, kind: str) -> None:
    """Refuse complex parameters.

    Raises:
        ConfigError: names the dtype.
    """
    for parameter in tensors(group):
        if parameter.is_complex():
            raise ConfigError(
                f"{kind} takes real parameters",
                got=f"one of {parameter.dtype}",
                fix="torch.view_as_real, or Ticks",
            )


def check_whole(group: Group, name: str, largest: float | None) -> None:
    """Refuse a largest norm where the parameters are shards that do not name their ranks.

    Raises:
        ConfigError: the parameters are those of FullyShardedDataParallel (FSDP1).
    """
    if largest is not None and any(is_flattened(each) for each in tensors(group)):
        raise ConfigError(
            f"{name} must be of the norm over all ranks",
            got="parameters of FullyShardedDataParallel, where each rank knows only its own part",
            fix="fully_shard() (FSDP2), or FullyShardedDataParallel's own clip_grad_norm_()",
        )


def check_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Refuse gradients that cannot be accumulated in place.

    Raises:
        ConfigError: a sparse gradient, or one that is part of a graph.
    """
    if gradient.layout is not torch.strided:
        raise ConfigError(
            "gradients must be dense",
            got=f"a {gradient.layout} one for a parameter of shape {tuple(parameter.shape)}",
            fix="sparse=False in the embedding",
        )
    if gradient.requires_grad:
        raise ConfigError(
            "beats must be added to .grad in place",
            got="a .grad that is part of a graph: backward(create_graph=True) makes a new one",
            fix="torch.autograd.grad(..., create_graph=True), then backward() of the whole loss",
        )


def check_own_memory(gradient: Tensor) -> None:
    """Refuse a `.grad` that torch cannot write to. Autograd never makes one.

    Raises:
        ConfigError: several elements are the same memory.
    """
    if shares_elements(gradient):
        raise ConfigError(
            "every element of a gradient must have memory of its own",
            got=f"strides {gradient.stride()} for a shape of {tuple(gradient.shape)}",
            fix="assign a .clone() to .grad",
        )


def check_no_copy(gradient: Tensor, total: Tensor) -> None:
    """Refuse a `.grad` that is a copy of the sum: added to the sum, it would count twice.

    Raises:
        ConfigError: it is a copy.
    """
    gradient, total = local(gradient), local(total)
    if gradient.layout is not torch.strided or gradient.data_ptr() == total.data_ptr():
        return
    if gradient.dtype == total.dtype and torch.equal(gradient, total) and total.any():
        raise ConfigError(
            "a .grad must be the memory of the accumulated sum, or none of it",
            got=f"a copy, for a parameter of shape {tuple(total.shape)}",
            fix='carry="separate", with which .grad is None after step()',
        )


def rescaling(old: float, new: float) -> float:
    """The factor of a sum that was multiplied by the old momentum, and should be by the new one.

    Raises:
        ConfigError: the old momentum is 0, which leaves nothing of the sum.
    """
    if old == 0:
        raise ConfigError(
            "momentum cannot rise from 0, which leaves nothing of the sum",
            got=repr(new),
            fix="begin with a small momentum",
        )
    return new / old


def check_state(
    state_dict: Mapping[str, Any], groups: list[Group], names: frozenset[str]
) -> dict[int, Any]:
    """Refuse the state of another kind of optimizer, or of other parameters.

    Args:
        state_dict: the state to be loaded.
        groups: of the optimizer that loads it.
        names: what that optimizer keeps per parameter.

    Returns:
        The state of every parameter, by number. torch.distributed.checkpoint gives it by name.

    Raises:
        CheckpointError: names the first difference.
    """
    kind = groups[0]["kind"]
    given, state = state_dict.get("param_groups"), state_dict.get("state")
    if not isinstance(given, list) or not isinstance(state, dict):
        raise CheckpointError(
            "the state of an optimizer must hold state and param_groups",
            got=", ".join(map(str, state_dict)) or "nothing",
        )
    kinds = {str(group.get("kind", "of another optimizer")) for group in given}
    if kinds != {kind}:
        raise CheckpointError(f"{kind} takes the state of {kind}", got=", ".join(sorted(kinds)))
    sizes = [len(group["params"]) for group in given]
    expected = [len(group["params"]) for group in groups]
    if sizes != expected:
        raise CheckpointError(
            f"the state must be of groups of {expected} parameters", got=str(sizes)
        )
    parameters = [parameter for group in groups for parameter in group["params"]]
    order = itertools.chain.from_iterable(group["params"] for group in given)
    numbers = {str(name): number for number, name in enumerate(order)}
    numbered = {}
    for name, values in state.items():
        if str(name) not in numbers:
            raise CheckpointError(
                f"the state must be of the {len(parameters)} parameters in its groups",
                got=str(name),
            )
        index = numbers[str(name)]
        if not values.keys() <= names:
            raise CheckpointError(
                f"{kind} keeps {', '.join(sorted(names))}", got=", ".join(sorted(values))
            )
        if values.get("pending") and "window" not in values:
            raise CheckpointError(
                "a state from the middle of a window must hold that window's gradients",
                got="none: torch.distributed.checkpoint saves only what a new optimizer has too",
                fix="save between two windows, or state_dict() itself on every rank",
            )
        _check_shapes(index, values, parameters[index])
        numbered[index] = values
    return numbered


def _check_shapes(index: int, values: Mapping[str, Any], parameter: Tensor) -> None:
    for name, value in values.items():
        if not isinstance(value, torch.Tensor) or (value.ndim == 0 and name == "step"):
            continue
        if value.shape != parameter.shape:
            raise CheckpointError(
                f"parameter {index} has shape {tuple(parameter.shape)}",
                got=f"{name} of shape {tuple(value.shape)}",
            )
        if local(value) is not value and local(parameter) is parameter:
            raise CheckpointError(
                "the state must be sharded over the ranks as the parameters are",
                got=f"{type(value).__name__} for a {type(parameter).__name__}",
                fix="get_optimizer_state_dict with StateDictOptions(full_state_dict=True)",
            )


def copied(value: Any, parameter: Tensor) -> Any:
    """A copy of a value of a state, with tensors sharded and placed as the parameter is.

    Tensors of the parameter's shape become float32 or better.
    """
    if not isinstance(value, torch.Tensor):
        return value
    if value.ndim == 0 and parameter.ndim > 0:
        return value.clone()
    copy = value.to(parameter.device, sum_dtype(parameter), copy=True)
    whole = local(value) is value and local(parameter) is not parameter
    return distribute_like(copy, parameter) if whole else copy
