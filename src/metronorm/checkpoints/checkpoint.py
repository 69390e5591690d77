"""Checkpoints: safetensors and one JSON file, whole or absent; nothing is ever unpickled.

`checkpoints/tick-00001000/` holds the weights, the state (optimizer and averages of the weights)
and `state.json` (everything else, with size and SHA-256 of all files and the SHA-256 of itself):

    format | written by                     | weights and state are in
    -------|--------------------------------|-------------------------------------------------------
    1      | one process; ranks that hold   | model.safetensors, state.safetensors
           | the same (DDP)                 |
    2      | ranks that hold parts (FSDP2)  | model-00001-of-00004.safetensors, state-00001-of-…

Any number of ranks reads either, each the rows that it needs. `state.json` then has the rows of
each file and, of each whole tensor, a fingerprint that does not depend on the number of ranks; it
is checked for what was read. `writing.py` has how they are written, `folder.py` which of them to
keep.

A checkpoint may come from anybody. So files are read only if they are regular ones in its folder
and of the size and the hash that they were written with, and memory is taken only for tensors
whose shapes the header of their file has shown to fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from metronorm.checkpoints.checks import (
    MODEL,
    STATE,
    TENSORS,
    branched_groups,
    check_state_tensors,
    checked_groups,
)
from metronorm.checkpoints.manifest import Manifest, read_checked, read_state
from metronorm.checkpoints.shards import TensorFiles, Whole
from metronorm.checkpoints.taking import Taken, distinct, take
from metronorm.checkpoints.world import ONE_PROCESS, NewerFormatError, agreed
from metronorm.checkpoints.writing import save, write
from metronorm.errors import CheckpointError
from metronorm.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from metronorm.checkpoints.world import World

__all__ = [
    "FOLDER",
    "MODEL",
    "OWN_NAMES",
    "STATE",
    "TENSORS",
    "Checkpoint",
    "NewerFormatError",
    "Taken",
    "open_checkpoint",
    "read_state",
    "save",
    "take",
    "write",
]

T = TypeVar("T")

FOLDER = "checkpoints"
AVERAGE_OPTIONS = {"ema": "--ema 0.999", "last": "--average-last 0.2"}
OWN_NAMES = ("files", "format", "optimizer", "sha256", "shards")  # in state.json


class Averages(Protocol):
    """Averages of the weights, to be put back."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What they hold, by name."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold these instead."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk that was found whole.

    Its methods take the ranks that load it together, of any number: all of them make the same
    calls, and where one fails, all do. A sharded model or optimizer (FSDP2) gets its rows only.
    """

    path: Path
    tick: int
    state: dict[str, Any]
    manifest: Manifest

    def _files(self, kind: str) -> TensorFiles:
        paths = [self.path / name for name in self.manifest.names(kind)]
        return TensorFiles(paths, self.manifest.wholes(kind))

    def check_parameters(self, expected: int) -> None:
        """Check how many numbers the weights are, before a model is made to take them.

        Raises:
            CheckpointError: not as many as `expected`.
        """
        held = sum(math.prod(whole.shape) for whole in self._files(MODEL).wholes.values())
        if held != expected:
            raise CheckpointError(
                f"{self.path} must hold the model that its config describes",
                got=f"{held:,} numbers for {expected:,} parameters",
            )

    def load_model(
        self, model: nn.Module, *, average: str | None = None, world: World = ONE_PROCESS
    ) -> None:
        """Put the weights into `model`.

        Args:
            model: of the same names, shapes and dtypes.
            average: which average of the weights to take instead: "ema" or "last".
            world: the ranks that load it together.

        Raises:
            CheckpointError: other names, shapes or dtypes than the model has; no such average;
                numbers that are not those that were saved. The model is as it was.
        """
        expected = distinct(model.state_dict(keep_vars=True))

        def read() -> None:
            held = files.wholes
            self._check_equal(_shapes(held), _shapes(expected))
            self._check_equal(
                {name: f"torch.{whole.dtype}" for name, whole in held.items()},
                {name: str(tensor.dtype) for name, tensor in expected.items()},
            )
            for name, tensor in expected.items():
                weights[name] = files.read_like(name, tensor, world)

        weights: dict[str, Tensor] = {}
        files = self._files(MODEL)
        agreed(world, read)
        files.verify(world)
        averaged = {} if average is None else self._average(model, average, world)
        # names that share a tensor are there once; whatever else is missing was found above
        model.load_state_dict(weights, strict=False)
        with torch.no_grad():
            for parameter, tensor in averaged.items():
                parameter.copy_(tensor)

    def _average(self, model: nn.Module, average: str, world: World) -> dict[nn.Parameter, Tensor]:
        """The average of each parameter."""
        prefix = f"average.{average}."
        files = self._files(TENSORS)
        found: dict[nn.Parameter, Tensor] = {}

        def read() -> None:
            held = {
                name.removeprefix(prefix): whole
                for name, whole in files.wholes.items()
                if name.startswith(prefix)
            }
            if not held:
                names = [name.split(".") for name in files.wholes]
                kinds = sorted({parts[1] for parts in names if parts[0] == "average"})
                raise CheckpointError(
                    f"{self.path} must hold the average {average!r} of the weights",
                    got=", ".join(kinds) or "none",
                    fix=f"the weights themselves, or a training with {AVERAGE_OPTIONS[average]}",
                )
            parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
            self._check_equal(_shapes(held), _shapes(parameters))
            for name, parameter in parameters.items():
                found[parameter] = files.read_like(prefix + name, parameter, world)

        agreed(world, read)
        files.verify(world)
        return found

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
        world: World = ONE_PROCESS,
    ) -> None:
        """Put the optimizer's state back, and the averages of the weights.

        Args:
            optimizer: of the same parameters.
            averages: to be put back too.
            branch: the optimizer's own options hold, instead of those that were saved.
            world: the ranks that load it together.

        Raises:
            CheckpointError: the state of another optimizer, or of other parameters; numbers that
                are not those that were saved.
        """
        state: dict[int, dict[str, Any]] = {}
        averaged: dict[str, Tensor] = {}

        def read() -> list[dict[str, Any]]:
            group = branched_groups if branch else checked_groups
            groups = group(self.state["optimizer"]["param_groups"], optimizer.param_groups)
            shapes = _shapes(files.wholes)
            check_state_tensors(shapes, optimizer)
            for index, values in self.state["optimizer"]["state"].items():
                state[int(index)] = dict(values)
            parameters = [each for group in optimizer.param_groups for each in group["params"]]
            for name, shape in shapes.items():
                kind, _, rest = name.partition(".")
                if kind == "optimizer":
                    index, _, key = rest.partition(".")
                    target = parameters[int(index)]
                    like_it = shape == tuple(target.shape)
                    value = files.read_like(name, target, world) if like_it else files.read(name)
                    state.setdefault(int(index), {})[key] = value
            for name, target in (averages.tensors() if averages else {}).items():
                if shapes[name] != tuple(target.shape):
                    raise ValueError(f"{name} of shape {shapes[name]}, not {tuple(target.shape)}")
                averaged[name] = files.read_like(name, target, world)
            return groups

        def load() -> None:
            optimizer.load_state_dict({"state": state, "param_groups": groups})
            if averages is not None:
                averages.load(averaged)

        groups: list[dict[str, Any]] = []
        files = self._files(TENSORS)
        agreed(world, lambda: groups.extend(self._fitting(read)))
        files.verify(world)
        agreed(world, lambda: self._fitting(load))

    def _fitting(self, work: Callable[[], T]) -> T:
        """What a function returns; whatever it finds wrong is the checkpoint's fault.

        Raises:
            CheckpointError: it has found something.
        """
        try:
            return work()
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


def _shapes(tensors: Mapping[str, Tensor | Whole]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def open_checkpoint(path: Path, world: World = ONE_PROCESS) -> Checkpoint:
    """Check a checkpoint's every byte; of several ranks, each reads some of the files.

    Raises:
        NewerFormatError: it was written by a later version.
        CheckpointError: missing, truncated or altered files, or some that are no regular ones.
    """
    manifest, state = read_checked(path, world)
    return Checkpoint(path, manifest.tick, state, manifest)
