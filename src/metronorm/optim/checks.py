"""Bad arguments, gradients and states: each one clear error, before anything has changed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import CheckpointError, ConfigError
from metronorm.optim._torch_private import is_flattened
from metronorm.optim.blocks import expanded, local, spread, sum_dtype
from metronorm.scalars import as_real

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    Group = dict[str, Any]


def as_groups(params: Any) -> list[Any]:
    """Parameters or groups of them, as the base class takes them.

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
            "params must be an iterable of parameters or of groups, in an order that stays",
            got=type(params).__name__,
            fix="model.parameters()",
        )
    return list(params)


def check_new(group: Group, others: Sequence[Group]) -> None:
    """Refuse parameters that are there already, or are none; `params` becomes a list.

    Raises:
        ConfigError: with the first that cannot be taken.
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
    """Refuse a hyper-parameter outside [least, below). It becomes a Python number; a tensor stays.

    Raises:
        ConfigError: it is outside, or no number.
    """
    value = group[name]
    number = as_real(value)
    if number is None or not least <= number < below:
        most = "" if below == math.inf else f" and below {below:g}"
        raise ConfigError(f"{name} must be at least {least:g}{most}", got=repr(value))
    if not isinstance(value, torch.Tensor | int):
        group[name] = number


def check_choice(group: Group, name: str, choices: Sequence[Any]) -> None:
    """Refuse a hyper-parameter that is none of the choices.

    Raises:
        ConfigError: it is none.
    """
    if group[name] not in choices:
        told = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{name} must be one of {told}", got=repr(group[name]))


def tensors(group: Group) -> list[Tensor]:
    """Parameters of a group, whose entries can be pairs with a name."""
    return [each[-1] if isinstance(each, tuple) and each else each for each in group["params"]]


def check_betas(group: Group) -> None:
    """Refuse betas outside [0, 1); they become Python numbers.

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
        ConfigError: there is one.
    """
    for parameter in tensors(group):
        if parameter.is_complex():
            raise ConfigError(
                f"{kind} takes real parameters",
                got=f"one of {parameter.dtype}",
                fix="torch.view_as_real, or Ticks",
            )


def check_whole(group: Group, name: str, largest: float | None) -> None:
    """Refuse a largest norm of what is spread over ranks without saying how.

    Raises:
        ConfigError: the parameters are those of FullyShardedDataParallel (FSDP1).
    """
    if largest is not None and any(is_flattened(each) for each in tensors(group)):
        raise ConfigError(
            f"{name} must be of the norm over all ranks",
            got="parameters of FullyShardedDataParallel, of which each rank knows its own part",
            fix="fully_shard() (FSDP2), or FullyShardedDataParallel's own clip_grad_norm_()",
        )


def check_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Refuse gradients that cannot be accumulated in place.

    Raises:
        ConfigError: a sparse one, or one that is part of a graph.
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
    """Refuse a `.grad` that nothing can be added to; autograd makes none.

    Raises:
        ConfigError: elements share their memory.
    """
    if expanded(gradient):
        raise ConfigError(
            "every element of a gradient must have memory of its own",
            got=f"strides {gradient.stride()} for a shape of {tuple(gradient.shape)}",
            fix=".clone() what is assigned to .grad",
        )


def check_no_copy(gradient: Tensor, carried: Tensor) -> None:
    """Refuse a `.grad` that is a copy of what is carried: added to that, it would count twice.

    Raises:
        ConfigError: it is one.
    """
    gradient, carried = local(gradient), local(carried)
    if gradient.layout is not torch.strided or gradient.data_ptr() == carried.data_ptr():
        return
    if gradient.dtype == carried.dtype and torch.equal(gradient, carried) and carried.any():
        raise ConfigError(
            "a .grad must be the memory of what it carries, or none of it",
            got=f"a copy, for a parameter of shape {tuple(carried.shape)}",
            fix='carry="separate", with which .grad is None after step()',
        )


def rescaling(old: float, new: float) -> float:
    """What turns a sum that was multiplied by one momentum into one multiplied by another.

    Raises:
        ConfigError: the old one is zero: nothing is left of the sum.
    """
    if old == 0:
        raise ConfigError(
            "momentum cannot rise from 0, at which nothing was carried",
            got=repr(new),
            fix="begin with a small momentum",
        )
    return new / old


def check_state(
    state_dict: Mapping[str, Any], groups: list[Group], names: frozenset[str]
) -> dict[int, Any]:
    """Refuse the state of another kind of optimizer, or of other parameters.

    Args:
        state_dict: to be loaded.
        groups: of the optimizer that is to load it.
        names: what it keeps per parameter.

    Returns:
        The state of every parameter, by number; those of torch.distributed.checkpoint come by name.

    Raises:
        CheckpointError: with the first difference.
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
                got="none: torch.distributed.checkpoint leaves out what a new optimizer has not",
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
                "the state must be spread over the ranks as the parameters are",
                got=f"{type(value).__name__} for a {type(parameter).__name__}",
                fix="get_optimizer_state_dict with StateDictOptions(full_state_dict=True)",
            )


def copied(value: Any, parameter: Tensor) -> Any:
    """A value of a state for this parameter: tensors as it is placed, and no less than float32."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.ndim == 0 and parameter.ndim > 0:
        return value.clone()
    copy = value.to(parameter.device, sum_dtype(parameter), copy=True)
    whole = local(value) is value and local(parameter) is not parameter
    return spread(copy, parameter) if whole else copy
