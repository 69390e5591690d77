"""Load a pretrained model and its tokenizer from this machine's disk; nothing is downloaded."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from metronorm.errors import ConfigError, DataError, OutOfMemoryError
from metronorm.finetune.architectures import Kind, check_architecture
from metronorm.finetune.library import quietly
from metronorm.finetune.mean_pooling import add_averaging_layer, gets_averaging_layer
from metronorm.finetune.model_files import (
    ModelFiles,
    check_gguf_magic,
    check_weights,
    find_model,
    read_config,
    weight_files,
)
from metronorm.finetune.vocabulary import context_of, explaining, load_tokenizer
from metronorm.memory import available_bytes
from metronorm.text import size

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Pretrained:
    """A model as its files have it, and its tokenizer.

    Attributes:
        model: a plain transformers model, on the CPU and in evaluation mode.
        tokenizer: of transformers, with its chat template if it has one.
        source: directory or GGUF file that it was loaded from.
        kind: "causal" or "classifier".
        context: most tokens that it sees at once.
        drawn: names of the parameters that its files do not have and that are drawn at random: a
            classifier's head.
    """

    model: Any
    tokenizer: Any
    source: Path
    kind: Kind
    context: int
    drawn: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """A classifier's labels in the order of its logits; none of a causal model."""
        if self.kind == "causal":
            return ()
        names = self.model.config.id2label
        return tuple(str(names[number]) for number in sorted(names))


def load(
    path: str | os.PathLike[str],
    kind: Kind,
    *,
    labels: Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Pretrained:
    """Load a model for fine-tuning.

    Args:
        path: a directory in Hugging Face layout with safetensors, a GGUF file, or a directory that
            holds one. Weights of GGUF are unpacked to `dtype`.
        kind: "causal" for next tokens, or "classifier" for texts. A BERT that was trained to be
            averaged over tokens gets a layer for it (see `mean_pooling`).
        labels: of a classifier, in the order of its logits; None: those that it was trained with.
            A head for other labels is drawn from torch's default generator.
        dtype: of the parameters.

    Raises:
        DataError: no model is there, or it is damaged, pickled, incomplete, wants its own code to
            run, or has no tokenizer that fits it.
        ConfigError: an unsupported architecture, or labels that do not fit.
        OutOfMemoryError: the weights do not fit into the memory that is free.
        MissingDependencyError: a package is missing.
    """
    source = Path(path).expanduser()
    if (labels is not None) and kind == "causal":
        raise ConfigError("only a classifier has labels", got=f"labels={list(labels)!r}")
    files = find_model(source)
    with quietly() as transformers:
        if files.gguf is None:
            return _load_directory(transformers, source, files, kind, labels, dtype)
        return _load_gguf(transformers, source, files, kind, dtype)


def _load_directory(
    transformers: Any,
    source: Path,
    files: ModelFiles,
    kind: Kind,
    labels: Sequence[str] | None,
    dtype: torch.dtype,
) -> Pretrained:
    check_architecture(read_config(files), kind)
    names = check_weights(files)
    averaged = kind == "classifier" and gets_averaging_layer(files, names)
    with explaining("a model's config", source):
        config = transformers.AutoConfig.from_pretrained(files.directory, local_files_only=True)
    tokenizer = load_tokenizer(transformers, source, config, files)
    auto, anew = transformers.AutoModelForCausalLM, False
    if kind == "classifier":
        auto = transformers.AutoModelForSequenceClassification
        anew = _set_labels(config, labels, has_head="classifier.weight" in names)
    _shell(auto, source, config, files, dtype)
    with explaining("a model", source):
        model, report = auto.from_pretrained(
            files.directory,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # what does not fit is in the report
            output_loading_info=True,
        )
    if wrong := _misfits(report, kind):
        raise DataError(
            "a model's files must have all of its weights, in the sizes of its config",
            got=f"{source} with {wrong[0]}",
            fix="download the model again",
        )
    drawn = {*report["missing_keys"], *(each[0] for each in report["mismatched_keys"])}
    if anew:
        torch.nn.init.normal_(model.classifier.weight, std=config.initializer_range)
        torch.nn.init.zeros_(model.classifier.bias)
        drawn |= {"classifier.weight", "classifier.bias"}
    if averaged:
        add_averaging_layer(model)
    return _pretrained(model, tokenizer, source, kind, tuple(sorted(drawn)))


def _misfits(report: Mapping[str, Any], kind: Kind) -> list[str]:
    """What is wrong with the weights in a model's files, as transformers reports it."""
    found = {
        name: f"{name} of {list(theirs)}, where the config has {list(ours)}"
        for name, theirs, ours in report["mismatched_keys"]
    }
    found |= {name: f"no {name}" for name in report["missing_keys"]}
    if kind == "classifier":
        found = {name: each for name, each in found.items() if not name.startswith(_DRAWN)}
    more = [name for name in report["unexpected_keys"] if _LAYER.search(name)]
    found |= {name: f"{name}, which the config does not have" for name in more}
    return [found[name] for name in sorted(found)]


_DRAWN = ("classifier.", "bert.pooler.", "head.")  # of a classifier that is made of another model
_LAYER = re.compile(r"\b(layers?|h)\.\d+\..*weight$")


def _set_labels(config: Any, labels: Sequence[str] | None, *, has_head: bool) -> bool:
    """Put the labels into a classifier's config; returns whether the head must be drawn anew."""
    own = [str(config.id2label[number]) for number in sorted(config.id2label)]
    if labels is None:
        if not has_head:
            raise ConfigError(
                "a classifier must know its labels",
                got="a pretrained model without a head",
                fix="name them",
            )
        return False
    if len(set(labels)) != len(labels) or len(labels) < 2:
        raise ConfigError("labels must be at least two different names", got=repr(list(labels)))
    if has_head and set(own) == set(labels) and own != list(labels):
        raise ConfigError(
            "labels must be in the order of the model's own head",
            got=", ".join(labels),
            fix=", ".join(own),
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    return own != list(labels)


def _load_gguf(
    transformers: Any, source: Path, files: ModelFiles, kind: Kind, dtype: torch.dtype
) -> Pretrained:
    check_gguf_magic(files)
    where: dict[str, Any] = {"gguf_file": files.gguf, "local_files_only": True}
    with explaining("a GGUF file", source):
        config = transformers.AutoConfig.from_pretrained(files.directory, **where)
    check_architecture(config.to_dict(), kind)
    shell = _shell(transformers.AutoModelForCausalLM, source, config, files, dtype)
    tokenizer = load_tokenizer(transformers, source, config, files)
    # Its progress bar is not one of those that `quietly` stops.
    with explaining("a GGUF file", source), contextlib.redirect_stderr(io.StringIO()):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            files.directory, config=config, dtype=dtype, output_loading_info=True, **where
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise DataError("a GGUF file must have all weights", got=f"{source} without {missing[0]}")
    return _pretrained(_moved(model, shell), tokenizer, source, kind, ())


def _moved(model: Any, shell: Any) -> Any:
    """The tensors of a model in a fresh one of its kind.

    What transformers loads from GGUF is marked as quantized: it cannot be saved, nor trained.
    """
    for name, module in model.named_modules():
        place = shell.get_submodule(name)
        for tensors in (module.named_parameters, module.named_buffers):
            for key, tensor in tensors(recurse=False):
                setattr(place, key, tensor)
    return shell.eval()


def _shell(auto: Any, source: Path, config: Any, files: ModelFiles, dtype: torch.dtype) -> Any:
    """A model of the config without memory for its weights, if they can be there and fit."""
    kept = sum(path.stat().st_size for path in weight_files(files))
    missing = DataError(
        "a model's files must have all of its weights",
        got=f"{size(kept)} for {config.num_hidden_layers:,} layers in {source}",
        fix="download the model again",
    )
    if config.num_hidden_layers * config.hidden_size > kept:  # a norm's weight alone is as large
        raise missing
    with explaining("a model's config", source), torch.device("meta"):
        shell = auto.from_config(config, dtype=dtype)
    parameters = sum(value.numel() for value in shell.parameters())
    if parameters > kept * (8 if files.gguf else 1):  # a weight is at least a bit or a byte
        raise missing
    needed, free = parameters * dtype.itemsize, available_bytes()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"a model of {parameters:,} parameters needs at least {size(needed)} of memory",
            got=f"{size(free)} free",
            fix="a smaller model",
        )
    return shell


def _pretrained(
    model: Any, tokenizer: Any, source: Path, kind: Kind, drawn: tuple[str, ...]
) -> Pretrained:
    # A padding index would keep the embedding of that token from learning. Padding is known by its
    # place; the token, often the one that ends an answer, is one like any other.
    model.get_input_embeddings().padding_idx = None
    return Pretrained(model, tokenizer, source, kind, context_of(model.config, tokenizer), drawn)
