"""The files of a pretrained model, checked before any of its weights is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metronorm.errors import DataError
from metronorm.files import open_regular, read_regular
from metronorm.text import printable, shortened

INDEX = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MUST = "a model must be a directory with config.json and *.safetensors, or a .gguf file"


@dataclass(frozen=True)
class ModelFiles:
    """Where a model is.

    Attributes:
        directory: of the model.
        gguf: name of its GGUF file in there; None: it is in Hugging Face layout.
    """

    directory: Path
    gguf: str | None


def find_model(path: Path) -> ModelFiles:
    """What is at a path; nothing is read but names.

    Raises:
        DataError: no model is there, only pickled weights are, or several models are.
    """
    if not path.exists():
        raise DataError(
            _MUST,
            got=f"{path}, which does not exist",
            fix="download it first (hf download NAME --local-dir DIRECTORY); nothing is downloaded "
            "here",
        )
    if not path.is_dir():
        if path.suffix == ".gguf":
            return ModelFiles(path.parent, path.name)
        fix = _conversion(path.parent) if path.suffix in _PICKLED else "the directory that it is in"
        raise DataError(_MUST, got=f"the file {path}", fix=fix)
    names = sorted(entry.name for entry in path.iterdir())
    ggufs = [name for name in names if name.endswith(".gguf")]
    tensors = [name for name in names if name.endswith(".safetensors")]
    if (
        "config.json" in names
        and (tensors or INDEX in names)
        and "adapter_config.json" not in names
    ):
        return ModelFiles(path, None)
    if len(ggufs) == 1:
        return ModelFiles(path, ggufs[0])
    if ggufs:
        raise DataError(
            "a directory must hold one .gguf file, or the one to use must be named",
            got=", ".join(ggufs),
            fix=str(path / ggufs[0]),
        )
    if "adapter_config.json" in names:
        raise DataError(
            _MUST,
            got=f"the adapter in {path}",
            fix="the model that it was made for, or merge the two",
        )
    if not tensors and any(name.endswith(_PICKLED) for name in names):
        raise DataError(
            "weights must be safetensors: loading pickled ones can run any code",
            got=", ".join(name for name in names if name.endswith(_PICKLED)),
            fix=_conversion(path),
        )
    if "run.json" in names:
        raise DataError(
            _MUST,
            got=f"the run {path}",
            fix=f"{path / 'model'}, if the whole model was saved there",
        )
    listed = shortened(printable(", ".join(names)), 200) or "nothing"
    raise DataError(_MUST, got=f"{path}, which holds {listed}")


def _conversion(directory: Path) -> str:
    """The command that makes safetensors of pickled weights."""
    return (
        'if you trust them, python -c "import sys, transformers as t; m = sys.argv[1]; '
        "c = getattr(t, t.AutoConfig.from_pretrained(m).architectures[0]); "
        f"c.from_pretrained(m, weights_only=True).save_pretrained(m)\" '{directory}'"
    )


def read_config(files: ModelFiles) -> dict[str, Any]:
    """The config.json of a directory in Hugging Face layout.

    Raises:
        DataError: it cannot be read, or asks for code of its own to be run.
    """
    config = _read_json(files.directory / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        path = files.directory / name
        if path.exists() and _read_json(path).get("auto_map"):
            raise DataError(
                "a model must not need code of its own, which is never run here (there is no "
                "--trust-remote-code)",
                got=f"auto_map in {path}",
                fix="a model whose code transformers has, without auto_map in this file",
            )
    return config


def weight_files(files: ModelFiles) -> list[Path]:
    """The files that the weights are in.

    Raises:
        DataError: one is missing.
    """
    if files.gguf is not None:
        return [files.directory / files.gguf]
    index = files.directory / INDEX
    if index.exists():
        named = _read_json(index).get("weight_map")
        shards = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        missing = [name for name in shards if not (files.directory / name).is_file()]
        if missing or not shards:
            raise DataError(
                f"all files that {index} names must be there",
                got=f"no {missing[0]}" if missing else "no names",
                fix="download the model again",
            )
        return [files.directory / name for name in shards]
    if not (files.directory / "model.safetensors").exists():
        found = sorted(path.name for path in files.directory.glob("*.safetensors"))
        raise DataError(
            f"weights must be in model.safetensors, or in the files that {INDEX} names",
            got=", ".join(found),
            fix="rename the file if it is the whole model, or download the model again",
        )
    return [files.directory / "model.safetensors"]


def check_weights(files: ModelFiles) -> set[str]:
    """Open every safetensors file of a directory, and read names only.

    Returns:
        The names of the tensors.

    Raises:
        DataError: a file is missing, or is damaged.
    """
    import safetensors

    names: set[str] = set()
    for path in weight_files(files):
        try:
            with safetensors.safe_open(path, "pt") as file:
                names |= set(file.keys())
        except (safetensors.SafetensorError, OSError) as error:
            raise DataError(
                "a safetensors file must be whole",
                got=f"{path}: {error}",
                fix="download the model again",
            ) from None
    return names


def check_gguf_magic(files: ModelFiles) -> None:
    """Refuse a file that is none of GGUF, before a library reads it.

    Raises:
        DataError: it does not begin as one, or cannot be read.
    """
    assert files.gguf is not None
    path = files.directory / files.gguf
    try:
        with open(open_regular(path), "rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise DataError("a model must be readable", got=f"{path}: {error.strerror}") from None
    if begin != b"GGUF":
        raise DataError(
            "a .gguf file must begin with GGUF",
            got=f"{path}, which begins with {begin!r}",
            fix="download the model again",
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "a model's JSON files must be readable", got=f"{path}: {error}", fix="download it again"
        ) from None
    return content
