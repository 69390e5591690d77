"""The optimizer of a training: which, and which parameters it treats how."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from metronorm.errors import ConfigError
from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign
from metronorm.text import shortened

if TYPE_CHECKING:
    from metronorm.train.config import OptimizerConfig

_log = logging.getLogger("metronorm")


def make_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    device: torch.device,
    groups: list[dict[str, Any]] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer that the config names.

    Args:
        model: whose parameters to update.
        config: which optimizer, and its hyper-parameters.
        device: of the model.
        groups: of parameters, as a task makes them; None: `default_groups`. A group with
            `"hidden": True` holds the matrices that Muon takes; AdamW takes the rest.

    Raises:
        ConfigError: no parameter that can be trained; groups that are none, or that hold a
            parameter twice, or one that is not the model's.
    """
    groups = default_groups(model, config) if groups is None else _checked(model, groups)
    groups = [
        {**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ConfigError(
            "a model must have parameters that can be trained",
            got=f"a {type(model).__name__} with none that requires a gradient",
        )
    rate, clip = config.learning_rate, config.clip or None
    on_nonfinite = _on_nonfinite(device)
    if config.name == "ticks_muon":
        return TicksMuon(
            _with_methods(groups, config),
            config.matrix_learning_rate,
            config.momentum,
            max_grad_norm=clip,
            on_nonfinite=on_nonfinite,
        )
    groups = _without_methods(model, groups)
    if config.name == "adamw":
        real = all(one.is_floating_point() for group in groups for one in group["params"])
        fused = device.type in ("cpu", "cuda") and real
        return torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=fused)
    if config.name == "ticks":
        return Ticks(
            groups,
            rate,
            config.momentum,
            decoupled=True,
            max_grad_norm=clip,
            on_nonfinite=on_nonfinite,
        )
    if config.name == "ticks_sign":
        return TicksSign(
            groups, rate, config.momentum, max_grad_norm=clip, on_nonfinite=on_nonfinite
        )
    return TicksAdam(groups, rate, config.betas, on_nonfinite=on_nonfinite)


def check_processes(config: OptimizerConfig, processes: int) -> None:
    """Raise ConfigError if an optimizer is for one process, and there are more."""
    if config.name == "ticks_adam" and processes > 1:
        raise ConfigError(
            "ticks_adam is for one process: what it does depends on which beats a process has",
            got=f"{processes} processes",
            fix="--optimizer.name adamw",
        )


def _checked(model: nn.Module, given: Any) -> list[dict[str, Any]]:
    """A task's groups; a warning names parameters of the model that are in none of them."""
    groups: list[Any] = list(given)
    if not all(isinstance(group, dict) and "params" in group for group in groups):
        raise ConfigError(
            "groups must be dicts with params",
            got=", ".join(sorted({type(group).__name__ for group in groups})),
            fix='[{"params": [...], "lr": 1e-4}, ...]',
        )
    groups = [{**group, "params": list(group["params"])} for group in groups]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [id(parameter) for group in groups for parameter in group["params"]]
    if foreign := sum(each not in names for each in found):
        raise ConfigError("groups must hold parameters of the model", got=f"{foreign} others")
    if twice := [name for key, name in names.items() if found.count(key) > 1]:
        raise ConfigError("a parameter must be in one group", got=f"{', '.join(twice)} twice")
    left = {name for name, each in model.named_parameters() if each.requires_grad}
    if left := left - {names[key] for key in found}:
        _log.warning(
            "%s: not trained, as no group has %s; with requires_grad_(False) it is meant so",
            shortened(", ".join(sorted(left)), 200),
            "them" if len(left) > 1 else "it",
        )
    return groups


def _on_nonfinite(device: torch.device) -> Literal["raise", "hold"]:
    """Whether the host or the device decides that an update is not made.

    On a CPU the host waits for nothing when it looks, and "hold" makes a tick 2 to 5 % longer.
    """
    return "raise" if device.type == "cpu" else "hold"


def default_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices and none on vectors.

    Hidden are the weights of linear layers but the last, which is taken for the output layer.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return groups_of(model, config, [module.weight for module in linear[:-1]])


def groups_of(
    model: nn.Module, config: OptimizerConfig, hidden: list[torch.Tensor]
) -> list[dict[str, Any]]:
    """Groups for `make_optimizer`: hidden matrices, other matrices, and vectors without decay.

    Args:
        model: whose parameters to divide.
        config: for its weight decay.
        hidden: the matrices that Muon takes.
    """
    inside = {id(parameter) for parameter in hidden}
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.dim() >= 2]
    return [
        {
            "params": [p for p in matrices if id(p) in inside],
            "weight_decay": config.weight_decay,
            "hidden": True,
        },
        {
            "params": [p for p in matrices if id(p) not in inside],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _with_methods(groups: list[dict[str, Any]], config: OptimizerConfig) -> list[dict[str, Any]]:
    """The groups as TicksMuon takes them: Muon is its default method."""
    adamw = {"method": "adamw", "lr": config.learning_rate, "betas": config.betas}
    return [
        {name: value for name, value in group.items() if name != "hidden"}
        | ({} if group.get("hidden") else adamw)
        for group in groups
    ]


def _without_methods(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups that differ only in being hidden are one, with its parameters in the model's order."""
    place = {id(parameter): index for index, parameter in enumerate(model.parameters())}
    merged: list[dict[str, Any]] = []
    for group in groups:
        options = {name: value for name, value in group.items() if name not in ("params", "hidden")}
        for other in merged:
            if {name: value for name, value in other.items() if name != "params"} == options:
                other["params"] = sorted(
                    [*other["params"], *group["params"]], key=lambda each: place[id(each)]
                )
                break
        else:
            merged.append({"params": list(group["params"]), **options})
    return merged
