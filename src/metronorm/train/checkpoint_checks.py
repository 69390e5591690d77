"""What is checked of a checkpoint's files, which may be anybody's, before they are used."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from safetensors import SafetensorError, safe_open

from metronorm.errors import CheckpointError
from metronorm.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


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


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file, by name; only its header is read.

    Raises:
        CheckpointError: no header that fits the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} must be a safetensors file", got=str(error)) from None


def check_groups(held: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that options of an optimizer are of the kind they have in a new one."""
    for group, new in zip(held, expected, strict=True):
        for name in group.keys() & new.keys() - {"params"}:
            if not _is_like(group[name], new[name]):
                raise ValueError(f"{name} is {group[name]!r}")
        if not _is_like(group.get("initial_lr", group["lr"]), 1.0):
            raise ValueError(f"initial_lr is {group['initial_lr']!r}")


def _is_like(value: Any, other: Any) -> bool:
    """Whether a value from JSON can stand where `other` stands."""
    if isinstance(other, list | tuple):
        same = isinstance(value, list) and len(value) == len(other)
        return same and all(map(_is_like, value, other))
    if isinstance(other, bool) or not isinstance(other, int | float):
        return type(value) is type(other)
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_state_shapes(shapes: dict[str, tuple[int, ...]], parameters: list[Tensor]) -> None:
    """Check that each tensor is a number, or of the shape of the parameter it is for."""
    for name, shape in shapes.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            expected = tuple(parameters[int(rest.partition(".")[0])].shape)
            if shape not in ((), expected):
                raise ValueError(f"{name} of shape {shape} for a parameter of shape {expected}")
