"""The optimizer of a training: which, and which parameters it treats how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metronorm.optim import Ticks, TicksAdam, TicksMuon, TicksSign

if TYPE_CHECKING:
    from metronorm.train.config import OptimizerConfig


def make_optimizer(
    model: nn.Module, config: OptimizerConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer the config names, with weight decay on matrices and none on vectors.

    Muon takes the matrices between embedding and output head; AdamW takes the rest.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate, clip = config.learning_rate, config.clip or None
    if config.name == "adamw":
        fused = device.type in ("cpu", "cuda")
        return torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=fused)
    if config.name == "ticks":
        return Ticks(groups, rate, config.momentum, decoupled=True, max_grad_norm=clip)
    if config.name == "ticks_sign":
        return TicksSign(groups, rate, config.momentum, max_grad_norm=clip)
    if config.name == "ticks_muon":
        return _muon(model, groups, config)
    return TicksAdam(groups, rate, config.betas)


def _muon(
    model: nn.Module, groups: list[dict[str, Any]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    hidden = {id(p) for p in hidden_matrices(model)}
    rest = [
        {**group, "params": [p for p in group["params"] if id(p) not in hidden]} for group in groups
    ]
    for group in rest:
        group.update(method="adamw", lr=config.learning_rate, betas=config.betas)
    first = {
        "params": [p for p in model.parameters() if id(p) in hidden],
        "weight_decay": config.weight_decay,
    }
    return TicksMuon(
        [group for group in (first, *rest) if group["params"]],
        config.matrix_learning_rate,
        config.momentum,
        max_grad_norm=config.clip or None,
    )


def hidden_matrices(model: nn.Module) -> list[torch.Tensor]:
    """Weights of the linear layers inside a model: neither embeddings nor the output head."""
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "head"
    ]
