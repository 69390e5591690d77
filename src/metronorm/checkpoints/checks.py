"""What is checked of a checkpoint's files, which may be anybody's, before they are used."""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch

from metronorm.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

MODEL, TENSORS, STATE = "model.safetensors", "state.safetensors", "state.json"
MOST_STATE_BYTES = 16 << 20  # hundreds of times what the largest models' state.json has

_ADAMW = ("step", "exp_avg", "exp_avg_sq")


class Digest(msgspec.Struct, frozen=True):
    """Size and SHA-256 of a file."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file.

    Raises:
        OSError: it cannot be read, or is none.
    """
    return digest_file(path).sha256


def digest_file(path: Path, size: int | None = None) -> Digest:
    """Size and SHA-256 of a regular file; without the latter where the size is not `size`."""
    with open(open_regular(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        found = os.fstat(file.fileno()).st_size
        if size not in (None, found):
            return Digest(found, "")
        return Digest(found, hashlib.file_digest(file, "sha256").hexdigest())


def digest_values(record: dict[str, Any]) -> str:
    """SHA-256 of JSON values, the same before they are written and after they are read."""
    plain = msgspec.json.decode(msgspec.json.encode(record))
    return hashlib.sha256(msgspec.json.encode(plain)).hexdigest()


def shard_name(name: str, rank: int, ranks: int) -> str:
    """The name of a rank's file: "model-00001-of-00004.safetensors" of the first of four."""
    stem, _, ending = name.partition(".")
    return f"{stem}-{rank + 1:05d}-of-{ranks:05d}.{ending}"


def branched_groups(
    held: list[dict[str, Any]], wanted: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The groups of an optimizer that goes on with other options: those of `wanted`.

    Raises:
        ValueError: another number of groups.
    """
    return [
        {**group, **new, "params": group["params"], "initial_lr": new["lr"]}
        for group, new in zip(held, wanted, strict=True)
    ]


def checked_groups(
    held: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The groups of an optimizer as they were saved, if a new one of the same config has the same.

    What it has beyond them, as an older version did not know it, is added. The learning rate is
    set anew at every tick, and how an update is computed is the machine's.

    Raises:
        ValueError: with the first option that differs.
    """
    for group, new in zip(held, expected, strict=True):
        for name in group.keys() & new.keys() - {"params", "lr", "fused", "foreach"}:
            if group[name] != _plain(new[name]):
                raise ValueError(f"{name} {group[name]!r}, not {new[name]!r}")
        if group.get("initial_lr", new["lr"]) != new["lr"]:
            raise ValueError(f"initial_lr {group['initial_lr']!r}, not {new['lr']!r}")
    options = ("lr", "fused", "foreach")
    return [
        {
            **new,
            "initial_lr": new["lr"],
            **group,
            **{name: new[name] for name in options if name in new},
        }
        for group, new in zip(held, expected, strict=True)
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def check_state_tensors(
    shapes: dict[str, tuple[int, ...]], optimizer: torch.optim.Optimizer
) -> None:
    """Check that an optimizer's tensors are there, each a number or of its parameter's shape.

    Raises:
        ValueError: with the first that is missing or of another shape.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for name, shape in shapes.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            expected = tuple(parameters[int(rest.partition(".")[0])].shape)
            if shape not in ((), expected):
                raise ValueError(f"{name} of shape {shape} for a parameter of shape {expected}")
    if isinstance(optimizer, torch.optim.AdamW):  # ours check that themselves
        held = {name.split(".")[1] for name in shapes if name.startswith("optimizer.")}
        if not held:
            raise ValueError("no state of any parameter")
        for index, key in itertools.product(sorted(held), _ADAMW):
            if f"optimizer.{index}.{key}" not in shapes:  # of a parameter that had a gradient
                raise ValueError(f"no optimizer.{index}.{key}")
