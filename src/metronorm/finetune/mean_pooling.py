"""A BERT whose texts are averaged over their tokens, as a plain BERT for classification.

Models of sentence-transformers say in `1_Pooling/config.json` how a text's vector is made of its
tokens', mostly by their mean. transformers' BERT classifies by the first token alone, through a
pooler which such a model was never trained with: for BBC News a linear classifier is right in 93 %
of the cases there, and in 96 % with the mean. So the model gets one more layer, which averages:

| part of the layer | weights | what it does |
| --- | --- | --- |
| attention | queries and keys 0, values 1 | every token sees the mean of all |
| its output | `_WEIGHT` times the identity | the mean outweighs the token that it is added to |
| feed-forward | output 0 | nothing |
| pooler | `_SCALE` times the identity | almost linear, where tanh does not bend yet |

What is saved is a plain `BertForSequenceClassification`.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import DataError
from metronorm.files import read_regular
from metronorm.finetune.model_files import check_weights, read_config

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from metronorm.finetune.model_files import ModelFiles

_WEIGHT = 100.0
_SCALE = 0.25


def gets_averaging_layer(files: ModelFiles, names: Collection[str] | None = None) -> bool:
    """Whether a model is loaded with one more layer as a classifier: a BERT without a head.

    Args:
        files: of the model.
        names: of its tensors; None: they are read.

    Raises:
        DataError: one of its files is damaged.
    """
    if files.gguf is not None or read_config(files).get("model_type") != "bert":
        return False
    if not is_averaged(files.directory):
        return False
    return "classifier.weight" not in (check_weights(files) if names is None else names)


def is_averaged(directory: Path) -> bool:
    """Whether a directory says that a text's vector is the mean of its tokens'.

    Raises:
        DataError: the file that says so is damaged.
    """
    path = directory / "1_Pooling" / "config.json"
    if not path.exists():
        return False
    try:
        return json.loads(read_regular(path)).get("pooling_mode_mean_tokens") is True
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            "a model's JSON files must be readable", got=f"{path}: {error}", fix="download it again"
        ) from None


@torch.no_grad()
def add_averaging_layer(model: Any) -> None:
    """Let a BERT for sequence classification classify the mean of a text's tokens.

    Args:
        model: a `BertForSequenceClassification`; it gets one more layer and another pooler.
    """
    layers = model.bert.encoder.layer
    layer = copy.deepcopy(layers[-1])
    attention, attended, out = layer.attention.self, layer.attention.output, layer.output
    attention.layer_idx = len(layers)
    for linear in (attention.query, attention.key, layer.intermediate.dense, out.dense):
        linear.weight.zero_()
        linear.bias.zero_()
    _set_identity(attention.value, 1.0)
    _set_identity(attended.dense, _WEIGHT)
    _set_identity(model.bert.pooler.dense, _SCALE)
    for norm in (attended.LayerNorm, out.LayerNorm):
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    layers.append(layer)
    model.config.num_hidden_layers = len(layers)


def _set_identity(linear: Any, factor: float) -> None:
    torch.nn.init.eye_(linear.weight).mul_(factor)
    linear.bias.zero_()
