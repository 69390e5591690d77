"""Make a pretrained model ready to be adapted: what trains, and in which dtype everything is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metronorm.allocator import page_out
from metronorm.errors import ConfigError
from metronorm.finetune.gated_mlp import keep_no_products
from metronorm.finetune.lookup import add_rows_alone
from metronorm.finetune.lora import add_lora
from metronorm.finetune.norm_only import keep_input_dtype, norm_parameters
from metronorm.finetune.pretrained import Pretrained
from metronorm.finetune.ways import AdaptConfig
from metronorm.norm import replace_norms
from metronorm.ranks import find_place

if TYPE_CHECKING:
    from metronorm.train.config import OptimizerConfig


@dataclass(frozen=True)
class Adapted:
    """A model that is ready to train.

    Attributes:
        pretrained: the model, changed in place, and what it is for.
        config: how it is adapted.
        total: how many parameters it had before.
        whole: names of the modules that train whole beside what `config.way` names: a classifier's
            head, and what its files did not have.
    """

    pretrained: Pretrained
    config: AdaptConfig
    total: int
    whole: tuple[str, ...] = ()

    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        named = self.pretrained.model.named_parameters()
        return {name: each for name, each in named if each.requires_grad}

    @property
    def trained(self) -> int:
        """How many parameters train."""
        return sum(each.numel() for each in self.parameters().values())


def adapt(pretrained: Pretrained, config: AdaptConfig) -> Adapted:
    """Prepare a pretrained model, in place.

    Norms become ours where that changes no number (`metronorm.norm.replace_norms`). What does not
    train is frozen and takes the dtype of the body. What trains is float32, except for the matrices
    of `full` with a bfloat16 body; see `groups`.

    Args:
        pretrained: a model, best in float32, and what it is for.
        config: which way to adapt it.

    Raises:
        ConfigError: a way that is for classifiers alone, or that leaves a new head as it is; a
            model that is adapted already; bfloat16 weights that train, on several processes.
    """
    model = pretrained.model
    total = sum(each.numel() for each in model.parameters())
    is_classifier = pretrained.kind == "classifier"
    if "head" in config.way and not is_classifier:
        raise ConfigError(
            f"{config.way} is for classification",
            got="a language model, whose head is its embedding too",
            fix="lora, norm or full",
        )
    if config.way == "norm" and is_classifier and pretrained.drawn:
        raise ConfigError(
            "a head that is new must be trained too", got="norm alone", fix="norm+head"
        )
    processes = find_place().world_size
    if config.way == "full" and config.body == "bf16" and processes > 1:
        raise ConfigError(
            "bfloat16 weights that train are for one process: ranks would round them differently",
            got=f"{processes} processes",
            fix="a body of fp32, or lora",
        )
    replace_norms(model)
    keep_no_products(model)
    add_rows_alone(model)
    model.requires_grad_(config.way == "full")
    whole = _whole(pretrained) if config.way in ("lora", "norm+head") else []
    if config.way == "head":
        model.classifier.requires_grad_(True)
    if config.way == "lora":
        skip = [model.get_submodule(name) for name in whole]
        if not is_classifier:
            skip.append(model.get_output_embeddings())
        add_lora(model, config.rank, config.alpha, config.dropout, skip=skip)
    if config.way in ("norm", "norm+head"):
        for parameter in norm_parameters(model).values():
            parameter.requires_grad_(True)
    for name in whole:
        model.get_submodule(name).requires_grad_(True)
    _set_dtypes(model, config, list(top_modules(model).values()) if is_classifier else [])
    return Adapted(pretrained, config, total, tuple(whole))


def groups(adapted: Adapted, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameter groups for the optimizer: matrices with its weight decay, vectors without.

    bfloat16 matrices have `stochastic_rounding`, so that the mean of their updates is exact.

    Args:
        adapted: what trains.
        optimizer: its name and weight decay.

    Raises:
        ConfigError: bfloat16 matrices and an optimizer that cannot round at random.
    """
    trained = list(adapted.parameters().values())
    half = [each for each in trained if each.dtype == torch.bfloat16]
    wide = [each for each in trained if each.dtype != torch.bfloat16]
    if half and optimizer.name not in ("ticks", "ticks_sign"):
        raise ConfigError(
            "bfloat16 weights need an optimizer that can round at random",
            got=optimizer.name,
            fix="--optimizer.name ticks_sign, or a body of fp32",
        )
    decay = optimizer.weight_decay
    found: list[dict[str, Any]] = [
        {"params": half, "weight_decay": decay, "stochastic_rounding": True},
        {"params": [each for each in wide if each.dim() > 1], "weight_decay": decay},
        {"params": [each for each in wide if each.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in found if group["params"]]


def top_modules(model: nn.Module) -> dict[str, nn.Module]:
    """What a classifier has above its encoder, by name."""
    body = getattr(model, "base_model_prefix", "")
    return {
        name: module
        for name, module in model.named_children()
        if name != body and any(True for _ in module.parameters())
    }


def _whole(pretrained: Pretrained) -> list[str]:
    """The modules that a classifier must train whole: above the encoder, or drawn at random."""
    if pretrained.kind != "classifier":
        return []
    names = list(top_modules(pretrained.model))
    drawn = {name.rpartition(".")[0] for name in pretrained.drawn}
    return names + sorted(name for name in drawn if name.partition(".")[0] not in names)


def _set_dtypes(model: nn.Module, config: AdaptConfig, top: list[nn.Module]) -> None:
    """float32 for what trains and for norms, the body's dtype for the rest.

    With `full` the body trains, and keeps its dtype. Buffers keep theirs: rotary frequencies must
    not be rounded. A model in float64 stays as it is.
    """
    body = {"fp32": torch.float32, "bf16": torch.bfloat16}[config.body]
    wide = {id(each) for each in norm_parameters(model).values()}
    wide |= {id(each) for module in top for each in module.parameters() if each.requires_grad}
    for parameter in model.parameters():
        trains = parameter.requires_grad and config.way != "full"
        if parameter.dtype in (torch.float32, torch.bfloat16, torch.float16):
            dtype = torch.float32 if trains or id(parameter) in wide else body
            given = parameter.data
            # one weight that lies in the mapped file would keep all of that in memory
            parameter.data = given.to(dtype, copy=body != torch.float32)
            if parameter.data is not given:
                page_out(given.data_ptr(), given.nbytes)
    if body == torch.float32:
        return
    keep_input_dtype(model)
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype != body:
            module.register_forward_pre_hook(_to_weight_dtype)


def _to_weight_dtype(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    x: Tensor = given[0]
    return x.to(module.get_parameter("weight").dtype), *given[1:]
