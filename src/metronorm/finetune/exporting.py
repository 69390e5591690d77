"""Save an adapted model so that plain `transformers` and `peft` load it.

| | holds | loads with |
| --- | --- | --- |
| `save_model` | the whole model; terms of LoRA are added to the weights | `transformers` |
| `save_adapter` | what was trained, for the same base model | `peft` |

Either is written to a folder of another name and renamed when it is whole. Of several processes the
first saves: transformers writes nothing on the others.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from metronorm.errors import ConfigError, RunError
from metronorm.files import directory_aside, read_regular
from metronorm.finetune.library import library, quietly
from metronorm.finetune.lora import LoraLinear, lora_layers
from metronorm.finetune.mean_pooling import gets_averaging_layer
from metronorm.finetune.model_files import find_model
from metronorm.finetune.norm_only import norms
from metronorm.finetune.ways import ADAPTER_WAYS
from metronorm.text import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metronorm.finetune.adapting import Adapted
    from metronorm.finetune.config import Config
    from metronorm.finetune.pretrained import Pretrained

Saved = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LABELS = "labels.json"
_SPARE = 1.05  # for the tokenizer and other small files


def save_model(pretrained: Pretrained, directory: Path, dtype: Saved = "fp32") -> None:
    """Save the whole model in Hugging Face layout, with its tokenizer and that one's template.

    Tied weights stay tied. A classifier's labels are in its config.

    Args:
        pretrained: the model, adapted or not.
        directory: new, or empty.
        dtype: of the weights on disk. Terms of LoRA are added in float32 and then rounded once.
            bf16 rounds gains of norms too, and with them small updates.

    Raises:
        RunError: the directory holds something, cannot be written, or has no room; nothing is left
            of what was begun.
    """
    model = pretrained.model
    weights = sum(each.numel() for each in model.parameters()) * DTYPES[dtype].itemsize
    with _written(directory, weights) as aside:
        with quietly():
            model.save_pretrained(aside, state_dict=_whole_state(model, DTYPES[dtype]))
        # transformers notes the dtype that the first parameter has in memory
        model.config.dtype = str(DTYPES[dtype]).removeprefix("torch.")
        model.config.save_pretrained(aside)
        pretrained.tokenizer.save_pretrained(aside)


def save_adapter(adapted: Adapted, directory: Path) -> None:
    """Save what was trained as an adapter of PEFT, with the tokenizer; weights are float32.

    `lora` becomes PEFT's LoRA, `norm` and `norm+head` its LN tuning, which rounds the gains to the
    dtype in which the base model is loaded: load that in float32. The base model is named by its
    path. PEFT keeps no labels: a classifier's are in `labels.json`.

    Args:
        adapted: by one of these ways.
        directory: new, or empty.

    Raises:
        ConfigError: a way that has no adapter, or a model with a layer that its files do not have.
        RunError: as `save_model`.
    """
    if missing := why_no_adapter(adapted):
        raise ConfigError(
            "an adapter is saved of lora, norm or norm+head, for a base model with the same layers",
            got=missing,
            fix="the whole model",
        )
    tensors = _adapter_state(adapted)
    pretrained = adapted.pretrained
    with _written(directory, sum(each.nbytes for each in tensors.values())) as aside:
        save_file(tensors, aside / "adapter_model.safetensors", metadata={"format": "pt"})
        peft_config(adapted).save_pretrained(str(aside))
        pretrained.tokenizer.save_pretrained(aside)
        if pretrained.kind == "classifier":
            (aside / LABELS).write_text(json.dumps(list(pretrained.labels), ensure_ascii=False))


def check_form(config: Config, form: str | None) -> None:
    """Refuse before the training what could not be saved after it.

    Args:
        config: of the fine-tuning.
        form: "adapter", or another, which always can.

    Raises:
        ConfigError: an adapter for a model that gets a layer which its files lack.
        DataError: as `gets_averaging_layer`.
    """
    if form != "adapter" or config.task != "classify":
        return
    if gets_averaging_layer(find_model(Path(config.model))):
        raise ConfigError(
            "an adapter is saved for a model whose own layers classify",
            got=f"{config.model}, which gets one more, for the mean of a text's tokens",
            fix="--save model",
        )


def why_no_adapter(adapted: Adapted) -> str:
    """The reason why an adapter alone would not do; "" where it does."""
    if adapted.config.way not in ADAPTER_WAYS:
        return adapted.config.way
    path, config = adapted.pretrained.source / "config.json", adapted.pretrained.model.config
    layers = json.loads(read_regular(path)).get("num_hidden_layers") if path.is_file() else None
    if layers not in (None, config.num_hidden_layers):
        return f"{config.num_hidden_layers} layers, where the base model's files have {layers}"
    return ""


def peft_config(adapted: Adapted) -> Any:
    """The config of PEFT that describes an adapter."""
    peft = library("peft")
    pretrained, config = adapted.pretrained, adapted.config
    # of a GGUF file it is the folder: transformers takes the file's name beside it
    base = pretrained.source.absolute()
    common: dict[str, Any] = {
        "task_type": "SEQ_CLS" if pretrained.kind == "classifier" else "CAUSAL_LM",
        "base_model_name_or_path": str(base.parent if base.is_file() else base),
        "modules_to_save": list(adapted.whole) or None,
        "inference_mode": True,
    }
    if config.way != "lora":
        inner = tuple(f"{name}." for name in adapted.whole)
        names = [name for name in norms(pretrained.model) if not name.startswith(inner)]
        return peft.LNTuningConfig(target_modules=names, **common)
    layers = lora_layers(pretrained.model)
    transposed = {layer.is_transposed for layer in layers.values()}
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=True,
        lora_dropout=config.dropout,
        target_modules=short_names(pretrained.model, layers),
        fan_in_fan_out=transposed == {True},
        bias="none",
        **common,
    )


def short_names(model: nn.Module, layers: dict[str, LoraLinear]) -> list[str]:
    """The shortest names by which PEFT finds exactly these layers: last parts, or whole names."""
    leaves = sorted({name.rpartition(".")[2] for name in layers})
    found = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in leaves}
    return leaves if found == layers.keys() else sorted(layers)


def _adapter_state(adapted: Adapted) -> dict[str, Tensor]:
    """What trains, by the names that PEFT gives it."""
    state = {}
    whole = tuple(f"{name}." for name in adapted.whole)
    for name, parameter in adapted.parameters().items():
        path, _, leaf = name.rpartition(".")
        if name.startswith(whole):
            saved = name
        elif leaf in ("lora_A", "lora_B"):
            saved = f"{name}.weight"
        else:
            saved = f"{path}.ln_tuning_layers.{leaf}"
        state[f"base_model.model.{saved}"] = _plain(parameter).float().contiguous().clone()
    return state


def _whole_state(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state dict of the model without terms of LoRA, which are added to the weights.

    What is one tensor in the model (tied weights) is one here.
    """
    layers = lora_layers(model)
    seen: dict[int, Tensor] = {}
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        path, _, leaf = name.rpartition(".")
        if path in layers and leaf in ("lora_A", "lora_B"):
            continue
        if id(tensor) not in seen:
            merged = path in layers and leaf == "weight"
            plain = _plain(layers[path].merged() if merged else tensor)
            kept = plain.to(dtype) if plain.is_floating_point() else plain
            seen[id(tensor)] = kept.contiguous()
        state[name] = seen[id(tensor)]
    return state


def _plain(tensor: Tensor) -> Tensor:
    """The whole of a DTensor, on the CPU; any other tensor without its graph."""
    whole = getattr(tensor, "full_tensor", None)
    return (whole() if whole else tensor).detach().cpu()


def check_new(directory: Path) -> None:
    """Raise RunError if there is something in this place, other than an empty directory."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(
            "a model must be saved to a new directory", got=str(directory), fix="another name"
        )


@contextlib.contextmanager
def _written(directory: Path, needed: int) -> Iterator[Path]:
    """An empty folder to fill, which becomes `directory`."""
    directory = directory.absolute()
    check_new(directory)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory.parent).free
        if free < needed * _SPARE:
            raise RunError(
                f"a disk must have room for what is saved, {size(needed)}",
                got=f"{size(free)} free for {directory}",
            )
        with directory_aside(directory) as aside:
            yield aside
    except (OSError, SafetensorError) as error:  # the latter does not know of the former
        raise RunError(
            "a directory to save to must be writable and have room",
            got=f"{directory}: {getattr(error, 'strerror', None) or error}",
        ) from None
