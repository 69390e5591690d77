"""The architectures that are fine-tuned: their body, which makes features, and their head.

| kind | `model_type` in config.json |
| --- | --- |
| causal | llama (SmolLM2), qwen3, gemma3_text, gpt2, gpt_neox |
| classifier | bert (MiniLM), modernbert |

The loss is that of a linear layer: `head(model)` on `features(model, batch)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.nn import functional

from metronorm.errors import ConfigError
from metronorm.finetune.packed_attention import packed_mask, use_packed_attention
from metronorm.loss.products import STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

Kind = Literal["causal", "classifier"]


class Head(NamedTuple):
    """The last layer: logits = scale * (features @ weight.T + bias), then soft-capped.

    Attributes:
        weight: the parameter, (vocabulary or labels, width); with tied embeddings, theirs.
        bias: the parameter, (vocabulary or labels,), or None.
        soft_cap: logits become soft_cap * tanh(logits / soft_cap); None: they stay.
        scale: factor of the logits.
    """

    weight: Tensor
    bias: Tensor | None
    soft_cap: float | None
    scale: float


def check_architecture(config: Mapping[str, Any], kind: Kind) -> None:
    """Refuse a model that `features` does not know.

    Args:
        config: the fields of the model's config.json.
        kind: what is made of it.

    Raises:
        ConfigError: it has another architecture, or is an unknown form of a known one.
    """
    name = str(config.get("model_type"))
    if name not in _BODIES[kind]:
        others = next((other for other in _BODIES if name in _BODIES[other]), None)
        raise ConfigError(
            f"a {kind} model must have one of the supported architectures",
            got=(f"{name!r}" if "model_type" in config else "no model_type")
            + (f", which is for a {others} model" if others else ""),
            fix=", ".join(_BODIES[kind]),
        )
    if config.get("quantization_config"):
        raise ConfigError(
            "weights must be of full precision to be trained",
            got="a quantized model (quantization_config in its config)",
            fix="the model that it was made from, or a GGUF file",
        )
    if kind == "causal" and (
        config.get("is_causal") is False or config.get("use_bidirectional_attention")
    ):
        raise ConfigError(
            "a causal model must see only what comes before", got="bidirectional attention"
        )


def features(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """What the head gets: one row per position of a causal batch, per text of a classifier's.

    Args:
        model: a transformers model for causal language modelling or sequence classification. One
            for causal modelling gets our attention function (see `packed_attention`) and keeps it.
        batch: of a causal model, `ids` and `positions`, int64 (positions,), and `lengths`, int64
            (documents,); documents follow each other, and `positions` begins with 0 in each. Of a
            classifier, `ids` and `mask`, int64 (rows, longest); mask is 1 where a token is.

    Returns:
        Floats (positions, width) or (rows, width).

    Raises:
        ConfigError: the model has an unsupported architecture.
    """
    config: Any = model.config
    name = config.model_type
    body = next((bodies[name] for bodies in _BODIES.values() if name in bodies), None)
    if body is None:
        raise ConfigError(
            "a model must have one of the supported architectures",
            got=repr(name),
            fix=", ".join(name for bodies in _BODIES.values() for name in bodies),
        )
    return body(model, batch)


def head(model: nn.Module) -> Head:
    """The head of a model that `features` takes; its tensors are the model's own parameters."""
    some: Any = model
    if hasattr(some, "classifier"):
        return Head(some.classifier.weight, some.classifier.bias, None, 1.0)
    layer = some.get_output_embeddings()
    cap = getattr(some.config, "final_logit_softcapping", None)
    return Head(layer.weight, layer.bias, cap, 1.0)


def _causal_body(model: Any, batch: Mapping[str, Any]) -> Tensor:
    use_packed_attention(model)
    ids, positions = (_on_device(model, batch[name]) for name in ("ids", "positions"))
    lengths, count = torch.as_tensor(batch["lengths"]), len(ids)
    if more := -count % _step(model):  # one more document, of which nothing is asked
        ids, positions = functional.pad(ids, (0, more)), functional.pad(positions, (0, more))
        lengths = functional.pad(lengths, (0, 1), value=more)
    hidden: Tensor = model.base_model(
        input_ids=ids.unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        attention_mask=packed_mask(lengths),
        use_cache=False,
    ).last_hidden_state
    return hidden[0, :count]


def _step(model: Any) -> int:
    """Of what the positions of a batch are made a multiple; 1: nothing is padded."""
    if model.device.type != "cpu":
        return 1
    dtype = model.get_input_embeddings().weight.dtype
    if torch.is_autocast_enabled("cpu") and dtype == torch.float32:
        dtype = torch.get_autocast_dtype("cpu")
    return STEP if dtype == torch.bfloat16 else 1


def _rows(model: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The tokens and the mask of a classifier's batch, on the model's device."""
    ids, mask = _on_device(model, batch["ids"]), _on_device(model, batch["mask"])
    room = model.config.max_position_embeddings - ids.shape[1]
    more = min(-ids.shape[1] % _step(model), max(0, room))
    return functional.pad(ids, (0, more)), functional.pad(mask, (0, more))


def _bert_body(model: Any, batch: Mapping[str, Any]) -> Tensor:
    ids, mask = _rows(model, batch)
    pooled: Tensor = model.bert(input_ids=ids, attention_mask=mask).pooler_output
    dropped: Tensor = model.dropout(pooled)
    return dropped


def _modernbert_body(model: Any, batch: Mapping[str, Any]) -> Tensor:
    ids, mask = _rows(model, batch)
    hidden: Tensor = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    if model.config.classifier_pooling == "cls":
        pooled = hidden[:, 0]
    else:
        pooled = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    dropped: Tensor = model.drop(model.head(pooled))
    return dropped


def _on_device(model: Any, values: Any) -> Tensor:
    return torch.as_tensor(values).to(model.device)


_BODIES: dict[Kind, dict[str, Callable[[Any, Mapping[str, Any]], Tensor]]] = {
    "causal": dict.fromkeys(("llama", "qwen3", "gemma3_text", "gpt2", "gpt_neox"), _causal_body),
    "classifier": {"bert": _bert_body, "modernbert": _modernbert_body},
}
