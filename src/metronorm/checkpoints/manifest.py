"""`state.json`, which says what a checkpoint holds; and the check that all of it is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from metronorm.checkpoints.checks import (
    MODEL,
    MOST_STATE_BYTES,
    STATE,
    TENSORS,
    Digest,
    digest_file,
    digest_values,
    shard_name,
)
from metronorm.checkpoints.shards import Whole, tensor_headers
from metronorm.checkpoints.world import NewerFormatError, agreed
from metronorm.errors import CheckpointError
from metronorm.files import open_regular
from metronorm.scalars import is_integer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metronorm.checkpoints.world import World

T = TypeVar("T")

FORMAT = 2  # the newest that is read


class _Optimizer(msgspec.Struct, frozen=True):
    state: dict[str, dict[str, Any]]
    param_groups: list[dict[str, Any]]


class _Shards(msgspec.Struct, frozen=True):
    model: dict[str, Whole]
    state: dict[str, Whole]


class Manifest(msgspec.Struct, frozen=True):
    """What every `state.json` must hold."""

    tick: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    files: dict[str, Digest]
    optimizer: _Optimizer
    shards: _Shards | None = None  # of format 2

    def names(self, kind: str) -> list[str]:
        """The names that the files of a kind, MODEL or TENSORS, must have."""
        if self.shards is None:
            return [kind]
        ranks = len(self.files) // 2
        return [shard_name(kind, rank, ranks) for rank in range(ranks)]

    def wholes(self, kind: str) -> dict[str, Whole] | None:
        """The tensors in them; None: the header of the file says it."""
        if self.shards is None:
            return None
        return self.shards.model if kind == MODEL else self.shards.state


def read_checked(path: Path, world: World) -> tuple[Manifest, dict[str, Any]]:
    """The `state.json` of a checkpoint whose every byte was checked, by all ranks together.

    Raises:
        NewerFormatError: it was written by a later version.
        CheckpointError: missing, truncated or altered files, or some that are no regular ones.
    """
    checked = []

    def first_reads() -> dict[str, Any] | None:
        return _of_checkpoint(path, lambda: read_state(path)) if world.rank == 0 else None

    def check() -> None:
        manifest = _manifest(path, state)
        kinds = [
            (kind, number, name)
            for kind in (MODEL, TENSORS)
            for number, name in enumerate(manifest.names(kind))
        ]
        if manifest.files.keys() != {name for *_, name in kinds}:  # a name could be anywhere
            raise ValueError(f"the files {', '.join(map(repr, manifest.files)) or 'none'}")
        for kind in (MODEL, TENSORS):
            for whole in (manifest.wholes(kind) or {}).values():
                whole.check(len(manifest.names(kind)))
        for kind, number, name in kinds[world.rank :: world.size]:
            if digest_file(path / name, manifest.files[name].bytes) != manifest.files[name]:
                raise CheckpointError(
                    f"{path / name} must be as it was written",
                    got=f"{(path / name).stat().st_size} bytes that do not match their SHA-256",
                )
            wholes = manifest.wholes(kind)
            if wholes is not None:
                _check_shard(path / name, number, wholes)
        checked.append(manifest)

    state: Any = agreed(world, first_reads)[0]
    agreed(world, lambda: _of_checkpoint(path, check))
    return checked[0], state


def _of_checkpoint(path: Path, work: Callable[[], T]) -> T:
    """What a function returns; what it cannot read is no whole checkpoint."""
    try:
        return work()
    except (OSError, msgspec.MsgspecError, RecursionError, ValueError) as error:
        got = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} must be a whole checkpoint", got=got) from None


def _manifest(path: Path, state: dict[str, Any]) -> Manifest:
    """The manifest in the values of a `state.json`; its own hash is taken out of them."""
    written = state.get("format")
    if not is_integer(written) or written < 1:
        raise ValueError(f"the format {written!r}")
    if written > FORMAT:
        raise NewerFormatError(
            f"this version reads checkpoint format {FORMAT} and older",
            got=f"format {written} in {path}",
            fix="upgrade metronorm",
        )
    manifest = msgspec.convert(state, Manifest)
    if (manifest.shards is None) != (written == 1):
        raise ValueError(f"the format {written} {'with' if written == 1 else 'without'} shards")
    # a checkpoint from before state.json had a hash of its own has none
    if "sha256" in state and state.pop("sha256") != digest_values(state):
        raise ValueError(f"a {STATE} that does not match its SHA-256")
    return manifest


def _check_shard(path: Path, number: int, wholes: dict[str, Whole]) -> None:
    """Check that a file has the parts that it should have, and no other."""
    expected = {
        name: (whole.dtype, shape)
        for name, whole in wholes.items()
        if (shape := whole.shape_in(number)) is not None
    }
    found = tensor_headers(path)
    wrong = [name for name in found.keys() | expected if found.get(name) != expected.get(name)]
    if wrong:
        name = min(wrong)
        raise ValueError(
            f"{name} as {found.get(name, 'absent')} in {path.name}, which should be "
            f"{expected.get(name, 'absent')}"
        )


def read_state(path: Path) -> dict[str, Any]:
    """The `state.json` of a checkpoint; nothing of it is checked.

    Raises:
        OSError, msgspec.MsgspecError, RecursionError, ValueError: it cannot be read.
    """
    with open(open_regular(path / STATE, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        data = file.read(MOST_STATE_BYTES + 1)
    if len(data) > MOST_STATE_BYTES:
        raise ValueError(f"a {STATE} of more than {MOST_STATE_BYTES >> 20} MiB")
    return msgspec.json.decode(data, type=dict[str, Any])
