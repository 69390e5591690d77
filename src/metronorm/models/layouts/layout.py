"""What a layout is: two functions for config.json, and rules for the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from metronorm.errors import ConfigError
from metronorm.models.config import GPTConfig

LayoutName = Literal["gpt2", "gpt_neox", "llama"]
Fields = dict[str, Any]

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new"}
"""The layouts' names of `GPTConfig.mlp`."""


class Rule(NamedTuple):
    """How a layout keeps one of our tensors.

    Attributes:
        ours: name of our tensor.
        theirs: names of its parts in the layout.
        split: our tensor to its parts.
        join: the parts to our tensor.
        filled: shape of the zeros that the layout keeps where we have no such tensor.
    """

    ours: str
    theirs: tuple[str, ...]
    split: Callable[[Tensor], Sequence[Tensor]]
    join: Callable[[Sequence[Tensor]], Tensor]
    filled: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Layout:
    """One layout; `fields` and `config` are inverse for what it can express.

    Attributes:
        name: `model_type` in config.json.
        architecture: class of transformers that it is for.
        fields: what config.json says of a config.
        config: the config of such fields, after `complete`.
        complete: the fields of any config.json of this layout, with its defaults, flattened.
        rules: for the weights of a config.
        has_biases: whether it always has them; where we have none, they are zeros.
    """

    name: LayoutName
    architecture: str
    fields: Callable[[GPTConfig], Fields]
    config: Callable[[Mapping[str, Any]], GPTConfig]
    complete: Callable[[Mapping[str, Any]], Fields]
    rules: Callable[[GPTConfig], Iterator[Rule]]
    has_biases: bool

    def check(self, config: GPTConfig) -> None:
        """Refuse a config that the layout cannot express.

        Raises:
            ConfigError: the message names the option.
        """
        if config.kv_heads == config.heads:
            config = dataclasses.replace(config, kv_heads=None)
        back = self.config(self.complete(self.fields(config)))
        for field in dataclasses.fields(config):
            ours, theirs = getattr(config, field.name), getattr(back, field.name)
            if ours != theirs and not (field.name == "bias" and self.has_biases):
                raise ConfigError(
                    f"the layout {self.name} cannot express {field.name}={ours!r}",
                    fix=f"another layout, or a model with {field.name}={theirs!r}",
                )

    def read_config(self, fields: Mapping[str, Any]) -> GPTConfig:
        """The config of a model in this layout, from its config.json.

        Raises:
            ConfigError: it has a field that our GPT cannot express, which the message names.
        """
        given = self.complete(fields)
        try:
            config = self.config(given)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ConfigError(
                f"a config.json of the layout {self.name} must have all sizes", got=f"no {error}"
            ) from None
        for name, needed in self.complete(self.fields(config)).items():
            if given.get(name) != needed:
                raise ConfigError(
                    f"a GPT needs {name}={needed!r} in config.json", got=repr(given.get(name))
                )
        return config


def qkv_rows(config: GPTConfig) -> int:
    """Rows of the weight that makes queries, keys and values."""
    return (config.heads + 2 * config.key_heads) * config.head_size


def same(ours: str, theirs: str) -> Rule:
    """The tensor is the same, under another name."""
    return Rule(ours, (theirs,), lambda tensor: (tensor,), lambda parts: parts[0])


def rows_of_several(ours: str, theirs: Sequence[str], sizes: Sequence[int]) -> Rule:
    """Rows of our tensor are several tensors of theirs."""
    return Rule(ours, tuple(theirs), lambda tensor: tensor.split(list(sizes)), _joined)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def norm_rules(ours: str, theirs: str, config: GPTConfig) -> Iterator[Rule]:
    """Weight and bias of a LayerNorm."""
    yield same(f"{ours}.weight", f"{theirs}.weight")
    yield same(f"{ours}.bias", f"{theirs}.bias")._replace(filled=(config.width,))


def linear_rules(ours: str, theirs: str, outputs: int, *, turn: bool = False) -> Iterator[Rule]:
    """Weight and bias of a linear layer. GPT-2 keeps weights the other way round."""
    weight = same(f"{ours}.weight", f"{theirs}.weight")
    if turn:
        weight = weight._replace(split=lambda tensor: (tensor.T,), join=lambda parts: parts[0].T)
    yield weight
    yield same(f"{ours}.bias", f"{theirs}.bias")._replace(filled=(outputs,))


def activation_name(activation: str) -> str:
    """One name for GPT-2's approximation of GELU, which has several."""
    others = ("gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh")
    return "gelu_new" if activation in others else activation


def rope_of(fields: Fields) -> dict[str, Any]:
    """Take the nested description of rotary positions out, by its name of today or of before."""
    before = fields.pop("rope_scaling", None)
    return fields.pop("rope_parameters", None) or before or {}
