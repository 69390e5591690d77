"""Checkpoints: safetensors and one JSON file, whole or absent; nothing is ever unpickled.

`checkpoints/tick-00001000/` holds `model.safetensors`, `state.safetensors` (optimizer and averages
of the weights) and `state.json` (everything else, with size and SHA-256 of the other two and
the SHA-256 of itself). Which of them to keep is in `checkpoint_folder`.

A checkpoint may come from anybody. So files are read only if they are regular ones in its folder
and of the size and the hash that they were written with, and memory is taken only for tensors
whose shapes the header of their file has shown to fit.
"""

from __future__ import annotations

import errno
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from metronorm.errors import CheckpointError
from metronorm.files import directory_aside, open_regular, remove_directory
from metronorm.scalars import is_integer
from metronorm.text import printable
from metronorm.train.checkpoint_checks import (
    Digest,
    branched_groups,
    check_state_tensors,
    checked_groups,
    digest_file,
    digest_values,
    load_tensors,
    tensor_shapes,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from metronorm.train.averages import Averages

FORMAT = 1
FOLDER = "checkpoints"
AVERAGE_OPTIONS = {"ema": "--ema 0.999", "last": "--average-last 0.2"}
MODEL, TENSORS, STATE = "model.safetensors", "state.safetensors", "state.json"
OWN_NAMES = ("files", "format", "optimizer", "sha256")  # in state.json

_MOST_STATE_BYTES = 16 << 20  # hundreds of times what the largest models' state.json has


class NewerFormatError(CheckpointError):
    """A checkpoint of a later version: another one is no substitute, so none is looked for."""


class _Optimizer(msgspec.Struct, frozen=True):
    state: dict[str, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class _Manifest(msgspec.Struct, frozen=True):
    """What every `state.json` must hold."""

    tick: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    files: dict[str, Digest]
    optimizer: _Optimizer


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk that was found whole."""

    path: Path
    tick: int
    state: dict[str, Any]

    def check_parameters(self, expected: int) -> None:
        """Check how many numbers the weights are, before a model is made to take them.

        Raises:
            CheckpointError: not as many as `expected`.
        """
        held = sum(math.prod(shape) for shape in tensor_shapes(self.path / MODEL).values())
        if held != expected:
            raise CheckpointError(
                f"{self.path} must hold the model that its config describes",
                got=f"{held:,} numbers for {expected:,} parameters",
            )

    def load_model(self, model: nn.Module, *, average: str | None = None) -> None:
        """Put the weights into `model`.

        Args:
            model: of the same names, shapes and dtypes.
            average: which average of the weights to take instead: "ema" or "last".

        Raises:
            CheckpointError: other names, shapes or dtypes than the model has; no such average.
        """
        expected = _distinct(model.state_dict())
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        self._check_equal(tensor_shapes(self.path / MODEL), shapes)
        weights = load_tensors(self.path / MODEL)
        self._check_equal(
            {name: tensor.dtype for name, tensor in weights.items()},
            {name: tensor.dtype for name, tensor in expected.items()},
        )
        # names that share a tensor are there once; whatever else is missing was found above
        model.load_state_dict(weights, strict=False)
        if average is not None:
            self._load_average(model, average)

    def _load_average(self, model: nn.Module, average: str) -> None:
        prefix = f"average.{average}."
        tensors = load_tensors(self.path / TENSORS)
        held = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if not held:
            kinds = sorted({name.split(".")[1] for name in tensors if name.startswith("average.")})
            raise CheckpointError(
                f"{self.path} must hold the average {average!r} of the weights",
                got=", ".join(kinds) or "none",
                fix=f"the weights themselves, or a training with {AVERAGE_OPTIONS[average]}",
            )
        parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
        self._check_equal(
            {name: tuple(tensor.shape) for name, tensor in held.items()},
            {name: tuple(parameter.shape) for name, parameter in parameters.items()},
        )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(held[name])

    def _check_equal(self, held: Mapping[str, object], expected: Mapping[str, object]) -> None:
        differences = [
            f"{printable(name)}: {held.get(name, 'absent')} in the checkpoint, "
            f"{expected.get(name, 'absent')} in the model"
            for name in sorted(held.keys() | expected.keys())
            if held.get(name) != expected.get(name)
        ]
        if differences:
            raise CheckpointError(
                f"{self.path} must fit the model", got="differences: " + "; ".join(differences)
            )

    def load_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        averages: Averages | None = None,
        *,
        branch: bool = False,
    ) -> None:
        """Put the optimizer's state back, and the averages of the weights.

        Args:
            optimizer: of the same parameters.
            averages: to be put back too.
            branch: the optimizer's own options hold, instead of those that were saved.

        Raises:
            CheckpointError: the state of another optimizer, or of other parameters.
        """
        try:
            group = branched_groups if branch else checked_groups
            groups = group(self.state["optimizer"]["param_groups"], optimizer.param_groups)
            check_state_tensors(tensor_shapes(self.path / TENSORS), optimizer)
            tensors = load_tensors(self.path / TENSORS)
            state: dict[int, dict[str, Any]] = {}
            for index, values in self.state["optimizer"]["state"].items():
                state[int(index)] = dict(values)
            for name, tensor in tensors.items():
                kind, _, rest = name.partition(".")
                if kind == "optimizer":
                    index, _, key = rest.partition(".")
                    state.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": groups})
            if averages is not None:
                averages.load(tensors)
        except CheckpointError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise CheckpointError(
                f"{self.path} must fit the optimizer", got=f"{type(error).__name__}: {error}"
            ) from None


def save(
    directory: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write a checkpoint into `directory`; all of it, or nothing.

    Args:
        directory: the run's `checkpoints` folder.
        model: whose weights to keep.
        optimizer: whose state to keep.
        state: whatever else a resumed run needs, as plain JSON values; with `tick`, the number of
            updates done.
        tensors: more to keep beside the optimizer's, such as averages of the weights.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are as they were.
    """
    more = dict(tensors or {})
    kept = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, values in kept["state"].items():
        plain[str(index)] = {}
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                more[f"optimizer.{index}.{key}"] = value.contiguous()
            else:
                plain[str(index)][key] = value
    target = directory / f"tick-{state['tick']:08d}"
    directory.mkdir(parents=True, exist_ok=True)
    with directory_aside(target) as aside:
        try:
            save_file(_distinct(model.state_dict()), aside / MODEL)
            save_file(more, aside / TENSORS)
        except SafetensorError as error:
            raise _os_error(error) from None
        record = {
            "format": FORMAT,
            "files": {
                name: msgspec.to_builtins(digest_file(aside / name)) for name in (MODEL, TENSORS)
            },
            "optimizer": {"state": plain, "param_groups": kept["param_groups"]},
            **state,
        }
        record["sha256"] = digest_values(record)
        (aside / STATE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
        if target.exists():  # left by an attempt that went further than the one resumed from
            remove_directory(target)
    return target


def _distinct(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that can be written: each once, contiguous, and with a storage of its own.

    Names that share a tensor, as of tied weights, become the first of them.
    """
    seen, found = set(), {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        found[name] = (
            tensor.contiguous() if whole else tensor.clone(memory_format=torch.contiguous_format)
        )
    return found


def open_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's every byte.

    Raises:
        NewerFormatError: it was written by a later version.
        CheckpointError: missing, truncated or altered files, or some that are no regular ones.
    """
    try:
        state = read_state(path)
        written = state.get("format")
        if not is_integer(written) or written < 1:
            raise ValueError(f"the format {written!r}")
        if written > FORMAT:
            raise NewerFormatError(
                f"this version reads checkpoint format {FORMAT} and older",
                got=f"format {written} in {path}",
                fix="upgrade metronorm",
            )
        manifest = msgspec.convert(state, _Manifest)
        # a checkpoint from before state.json had a hash of its own has none
        if "sha256" in state and state.pop("sha256") != digest_values(state):
            raise ValueError(f"a {STATE} that does not match its SHA-256")
        if manifest.files.keys() != {MODEL, TENSORS}:
            raise ValueError(f"the files {', '.join(map(repr, manifest.files)) or 'none'}")
        for name in (MODEL, TENSORS):  # and no other name, which could be anywhere
            if digest_file(path / name, manifest.files[name].bytes) != manifest.files[name]:
                raise CheckpointError(
                    f"{path / name} must be as it was written",
                    got=f"{(path / name).stat().st_size} bytes that do not match their SHA-256",
                )
    except (OSError, msgspec.MsgspecError, RecursionError, ValueError) as error:
        got = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} must be a whole checkpoint", got=got) from None
    return Checkpoint(path, manifest.tick, state)


def read_state(path: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint; nothing of it is checked.

    Raises:
        OSError, msgspec.MsgspecError, RecursionError, ValueError: it cannot be read.
    """
    with open(open_regular(path / STATE, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        data = file.read(_MOST_STATE_BYTES + 1)
    if len(data) > _MOST_STATE_BYTES:
        raise ValueError(f"a {STATE} of more than {_MOST_STATE_BYTES >> 20} MiB")
    return msgspec.json.decode(data, type=dict[str, Any])


def _os_error(error: SafetensorError) -> OSError:
    """What the system said, when safetensors could not write: "... (os error 28)"."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, os.strerror(number) if found else str(error))
