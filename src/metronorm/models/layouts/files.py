"""Save a GPT where transformers loads it; load one, or an encoder, from there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from metronorm.errors import ConfigError, DataError
from metronorm.files import directory_aside, read_regular
from metronorm.models.encoder import Encoder
from metronorm.models.gpt import GPT
from metronorm.models.layouts import LAYOUTS, bert, layout_for

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from torch import Tensor, nn

    from metronorm.models.layouts.layout import Layout, LayoutName, Rule

_INDEX = "model.safetensors.index.json"
# Tables that older checkpoints keep beside the weights, and that the model makes itself.
_TABLES = re.compile(r"\.(attn|attention)\.(masked_)?bias$|\.inv_freq$")


class SavedTokenizer(Protocol):
    """What `save_gpt` needs of a tokenizer; those of `metronorm.data` have it."""

    @property
    def separator(self) -> int:
        """Id of the token that ends a document."""

    def save_huggingface(self, directory: Path, context: int) -> None:
        """Write files that AutoTokenizer of transformers loads."""


def save_gpt(
    model: GPT,
    directory: str | os.PathLike[str],
    *,
    layout: LayoutName | None = None,
    tokenizer: SavedTokenizer | None = None,
) -> None:
    """Save a GPT in Hugging Face layout: config.json, model.safetensors, the tokenizer's files.

    What transformers loads from there gives the same logits. Biases that the layout has and the
    model has not are zeros. Dropout matters in training only; the layout llama has it on attention
    weights alone.

    Args:
        model: the model; its weights are saved in their dtype.
        directory: a new or empty directory.
        layout: "gpt2", "gpt_neox" or "llama"; None: the one that expresses the model.
        tokenizer: one to save beside it.

    Raises:
        ConfigError: the layout cannot express the model, or the directory is not empty.
        OSError: the directory cannot be written; then nothing is left there.
    """
    import safetensors.torch

    config, target = model.config, Path(directory)
    if layout is None:
        chosen = layout_for(config)
    else:
        chosen = _layout(layout)
        chosen.check(config)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError("a model is saved in a new directory", got=f"{target}, which exists")
    end = None if tokenizer is None else tokenizer.separator
    dtype = str(model.tokens.weight.dtype).removeprefix("torch.")
    fields = {
        "model_type": chosen.name,
        "architectures": [chosen.architecture],
        **chosen.fields(config),
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": dtype,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with directory_aside(target) as aside:
        _write_json(aside / "config.json", fields)
        _write_json(aside / "generation_config.json", {"bos_token_id": end, "eos_token_id": end})
        tensors = _to_layout(model, chosen)
        safetensors.torch.save_file(tensors, aside / "model.safetensors", {"format": "pt"})
        if tokenizer is not None:
            tokenizer.save_huggingface(aside, config.context)


def load_gpt(directory: str | os.PathLike[str]) -> GPT:
    """Load a GPT from a directory in Hugging Face layout: GPT-2, GPT-NeoX or Llama.

    Its logits are those of the model that transformers loads from there.

    Args:
        directory: with config.json and safetensors.

    Returns:
        A model in float32 and in evaluation mode.

    Raises:
        ConfigError: our GPT cannot express the model; the message names the field of config.json.
        DataError: a file is missing or damaged.
    """
    source = Path(directory)
    fields = _read_json(source / "config.json")
    layout = _layout(fields.get("model_type"))
    config = layout.read_config(fields)
    tensors = _read_tensors(source)
    prefix = next(layout.rules(config)).theirs[0].partition(".")[0] + "."
    if not any(name.startswith(prefix) for name in tensors):
        tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    model = GPT(config)
    _from_layout(model, layout.name, layout.rules(config), tensors, source)
    return model.eval()


def load_encoder(directory: str | os.PathLike[str]) -> Encoder:
    """Load an encoder from a directory in Hugging Face layout: BERT, such as MiniLM.

    Its vectors are the `last_hidden_state` of the model that transformers loads from there. A
    pooler and heads that may be there are not read.

    Args:
        directory: with config.json and safetensors.

    Returns:
        A model in float32 and in evaluation mode.

    Raises:
        ConfigError: our encoder cannot express the model; the message names the field of
            config.json.
        DataError: a file is missing or damaged.
    """
    source = Path(directory)
    config = bert.read_config(_read_json(source / "config.json"))
    model = Encoder(config)
    tensors = bert.renamed(_read_tensors(source))
    _from_layout(model, "bert", bert.rules(config), tensors, source)
    return model.eval()


def _layout(name: object) -> Layout:
    if name not in LAYOUTS:
        raise ConfigError(
            f"a layout must be one of {', '.join(map(repr, LAYOUTS))}", got=repr(name)
        )
    return LAYOUTS[str(name)]


def _to_layout(model: GPT, layout: Layout) -> dict[str, Tensor]:
    ours = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    theirs = {}
    for rule in layout.rules(model.config):
        tensor = ours.get(rule.ours)
        if tensor is None and rule.filled is not None:
            tensor = torch.zeros(rule.filled, dtype=model.tokens.weight.dtype)
        assert tensor is not None, rule.ours
        for name, part in zip(rule.theirs, rule.split(tensor), strict=True):
            theirs[name] = part.clone(memory_format=torch.contiguous_format)
    return theirs


def _from_layout(
    model: nn.Module, layout: str, given: Iterable[Rule], theirs: dict[str, Tensor], source: Path
) -> None:
    ours, rules = dict(model.named_parameters()), list(given)
    with torch.no_grad():
        for rule in rules:
            missing = [name for name in rule.theirs if name not in theirs]
            if missing:
                raise DataError(
                    f"a model in the layout {layout} must have all weights",
                    got=f"{source} without {missing[0]}",
                )
            parts = [theirs[name] for name in rule.theirs]
            wanted = [tuple(part.shape) for part in rule.split(ours[rule.ours])]
            if [tuple(part.shape) for part in parts] != wanted:
                raise DataError(
                    "weights must have the sizes of config.json",
                    got=f"{rule.theirs[0]} of shape {tuple(parts[0].shape)} in {source}",
                )
            ours[rule.ours].copy_(rule.join(parts))
    known = {name for rule in rules for name in rule.theirs} | {"lm_head.weight"}
    unknown = sorted(name for name in theirs.keys() - known if not _TABLES.search(name))
    if unknown:
        raise DataError(
            f"a model in the layout {layout} must have no other weights",
            got=f"{unknown[0]} in {source}",
        )


def _read_tensors(source: Path) -> dict[str, Tensor]:
    import safetensors
    import safetensors.torch

    names = ["model.safetensors"]
    if (source / _INDEX).exists():
        listed = _read_json(source / _INDEX).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= safetensors.torch.load_file(source / name)
        except (safetensors.SafetensorError, OSError) as error:
            raise DataError(
                "a model's weights must be whole safetensors", got=f"{source / name}: {error}"
            ) from None
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("a model's JSON files must be readable", got=f"{path}: {error}") from None
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
