"""Checkpoints: safetensors and one JSON file, whole or absent; nothing is ever unpickled.

`checkpoints/tick-00001000/` holds `model.safetensors`, `state.safetensors` (optimizer and random
number generators) and `state.json` (everything else, with size and SHA-256 of the other two).
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from metronorm.errors import CheckpointError
from metronorm.files import directory_aside, remove_directory, remove_leftovers

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
FOLDER = "checkpoints"
MODEL, TENSORS, STATE = "model.safetensors", "state.safetensors", "state.json"

_log = logging.getLogger("metronorm")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk that was found whole."""

    path: Path
    tick: int
    state: dict[str, Any]

    def load_model(self, model: nn.Module) -> None:
        """Put the weights into `model`.

        Raises:
            CheckpointError: other names or shapes than the model has.
        """
        weights = load_file(self.path / MODEL)
        expected = dict(model.state_dict())
        differences = [
            f"{name}: {_shape(weights.get(name))} in the checkpoint, "
            f"{_shape(expected.get(name))} in the model"
            for name in sorted(weights.keys() | expected.keys())
            if _shape(weights.get(name)) != _shape(expected.get(name))
        ]
        if differences:
            raise CheckpointError(
                f"{self.path} must fit the model", got="differences: " + "; ".join(differences)
            )
        model.load_state_dict(weights)

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the optimizer's state back, and that of torch's random number generators."""
        tensors = load_file(self.path / TENSORS)
        state: dict[int, dict[str, Any]] = {}
        for index, values in self.state["optimizer"]["state"].items():
            state[int(index)] = dict(values)
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                state.setdefault(int(index), {})[key] = tensor
        groups = self.state["optimizer"]["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])


def save(
    directory: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> Path:
    """Write a checkpoint into `directory`; all of it, or nothing.

    Args:
        directory: the run's `checkpoints` folder.
        model: whose weights to keep.
        optimizer: whose state to keep.
        state: whatever else a resumed run needs, as plain JSON values; with `tick`, the number of
            updates done.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are as they were.
    """
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    kept = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, values in kept["state"].items():
        plain[str(index)] = {}
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{key}"] = value.contiguous()
            else:
                plain[str(index)][key] = value
    target = directory / f"tick-{state['tick']:08d}"
    directory.mkdir(parents=True, exist_ok=True)
    if target.exists():  # left by an attempt that went further than the one resumed from
        remove_directory(target)
    with directory_aside(target) as aside:
        try:
            weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            save_file(weights, aside / MODEL)
            save_file(tensors, aside / TENSORS)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        record = {
            "format": FORMAT,
            "files": {name: _seal(aside / name) for name in (MODEL, TENSORS)},
            "optimizer": {"state": plain, "param_groups": kept["param_groups"]},
            **state,
        }
        (aside / STATE).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
    return target


def prune(directory: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the one of the lowest validation loss."""
    paths = checkpoint_paths(directory)
    best = best_checkpoint(directory)
    for path in paths[:-keep]:
        if best is None or path != best:
            remove_directory(path)
    remove_leftovers(directory)


def checkpoint_paths(directory: Path) -> list[Path]:
    """Folders of checkpoints, oldest first; none of them is checked."""
    return sorted(directory.glob("tick-*"))


def best_checkpoint(directory: Path) -> Path | None:
    """The checkpoint with the lowest validation loss, if any was evaluated."""
    losses = []
    for path in checkpoint_paths(directory):
        try:
            loss = msgspec.json.decode((path / STATE).read_bytes()).get("validation_loss")
        except (OSError, msgspec.MsgspecError, AttributeError):
            continue
        if loss is not None:
            losses.append((loss, path))
    return min(losses)[1] if losses else None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint's every byte.

    Raises:
        CheckpointError: missing, truncated or altered files, or a newer format.
    """
    try:
        state = msgspec.json.decode((path / STATE).read_bytes(), type=dict[str, Any])
        if state["format"] > FORMAT:
            raise CheckpointError(
                f"this version reads checkpoint format {FORMAT} and older",
                got=f"format {state['format']} in {path}",
                fix="upgrade metronorm",
            )
        for name, sealed in state["files"].items():
            if _seal(path / name) != sealed:
                raise CheckpointError(
                    f"{path / name} must be as it was written",
                    got=f"{(path / name).stat().st_size} bytes that do not match their SHA-256",
                )
        return Checkpoint(path, state["tick"], state)
    except (OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} must be a whole checkpoint", got=f"{type(error).__name__}: {error}"
        ) from None


def newest_checkpoint(directory: Path) -> Checkpoint:
    """The newest checkpoint that is whole; damaged ones are passed over and told of.

    Raises:
        CheckpointError: there is none.
    """
    damaged = []
    for path in reversed(checkpoint_paths(directory)):
        try:
            return open_checkpoint(path)
        except CheckpointError as error:
            _log.warning("passing over a damaged checkpoint: %s", error)
            damaged.append(path.name)
    raise CheckpointError(
        "a run needs a whole checkpoint to go on from",
        got=f"{directory} with {'only damaged ones: ' + ', '.join(damaged) if damaged else 'none'}",
        fix="start a new run",
    )


def _seal(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape))
