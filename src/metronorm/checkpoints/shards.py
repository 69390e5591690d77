"""Tensors that several ranks hold by rows, and the files in which each rank keeps its own.

A whole tensor of `n` rows may lie in any number of files, and be read by any number of ranks:

    saved by 3 ranks   | 0 1 2 | 3 4 5 | 6 |        rows [0, 3, 6, 7] in state.json
    read by 2 ranks    | 0 1 2 3 | 4 5 6 |          each reads its rows only, from two files

A tensor that every rank holds whole, as the optimizer's counters, is in the first file.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from safetensors import SafetensorError, safe_open

from metronorm.checkpoints.fingerprint import MODULUS, fingerprint
from metronorm.checkpoints.world import agreed
from metronorm.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from metronorm.checkpoints.world import World

_Size = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]


class Part(NamedTuple):
    """The rows of a whole tensor that a rank holds. A number (shape `()`) counts as one row."""

    local: Tensor
    shape: tuple[int, ...]  # of the whole
    begin: int
    end: int
    is_first: bool  # no rank before this one holds the same rows

    @property
    def place(self) -> int:
        """Of its first element, in the flattened whole."""
        return self.begin * math.prod(self.shape[1:])


class Whole(msgspec.Struct, frozen=True):
    """What `state.json` says of a tensor: file `k` has its rows from `rows[k]` to `rows[k + 1]`.

    Later files than those of `rows` have none of it.
    """

    dtype: str
    shape: tuple[_Size, ...]
    rows: tuple[_Size, ...]
    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")] | None = None

    def check(self, files: int) -> None:
        """Check that the rows are all there, once, and have a fingerprint.

        Raises:
            ValueError: they are not, or have none.
        """
        if self.fingerprint is None:
            raise ValueError("a tensor in shards without a fingerprint")
        ends = (self.rows[0], self.rows[-1]) if len(self.rows) > 1 else None
        if ends != (0, rows_of(self.shape)) or len(self.rows) > files + 1:
            raise ValueError(f"rows {self.rows} of a tensor of shape {self.shape}")
        if any(begin > end for begin, end in itertools.pairwise(self.rows)):
            raise ValueError(f"rows {self.rows}, which do not ascend")

    def shape_in(self, file: int) -> tuple[int, ...] | None:
        """The shape of the part that a file has; None: it has none. The first has one of each."""
        if not self.shape:
            return None if file else ()
        begin, end = self.rows[file : file + 2] if file + 1 < len(self.rows) else (0, 0)
        return (end - begin, *self.shape[1:]) if begin < end or not file else None


def rows_of(shape: tuple[int, ...]) -> int:
    """How many rows a tensor of this shape has."""
    return shape[0] if shape else 1


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which this rank may have a part only."""
    return hasattr(tensor, "placements")


def part_of(tensor: Tensor, world: World) -> Part:
    """What this rank holds of a tensor.

    Args:
        tensor: one that every rank has, or a DTensor that is sharded by rows, as FSDP2 does it.
        world: the ranks that have it.

    Raises:
        CheckpointError: sharded in another way, or by more ranks than the world has.
    """
    shape = tuple(tensor.shape)
    if not is_sharded(tensor):
        return Part(tensor.detach(), shape, 0, rows_of(shape), world.rank == 0)
    from torch.distributed.tensor import DTensor, Replicate, Shard  # here, as it loads slowly

    assert isinstance(tensor, DTensor)
    local, mesh = tensor.to_local().detach(), tensor.device_mesh
    coordinate = mesh.get_coordinate()
    index, parts, is_first = 0, 1, True
    if coordinate is None or mesh.size() > world.size:
        raise CheckpointError(
            "a sharded model and its checkpoints must be of the same ranks",
            got=f"a mesh of {mesh.size()}, and {world.size} for the checkpoint",
        )
    for dim, placement in enumerate(tensor.placements):
        if type(placement) is Shard and placement.dim == 0 and parts == 1:
            index, parts = coordinate[dim], mesh.size(dim)
        elif type(placement) is Replicate:
            is_first &= coordinate[dim] == 0
        else:
            raise CheckpointError(
                "a sharded tensor must be divided by rows, over one dimension of its mesh",
                got=str(tensor.placements),
            )
    each = -(-rows_of(shape) // parts)  # as torch.chunk: the last ranks may have fewer, or none
    begin, end = (min(shape[0], each * place) for place in (index, index + 1))
    if tuple(local.shape) != (end - begin, *shape[1:]):
        raise CheckpointError(
            "a sharded tensor must be divided among the ranks as torch.chunk does it",
            got=f"{tuple(local.shape)} of {shape} on rank {index} of {parts}",
        )
    return Part(local, shape, begin, end, is_first)


class TensorFiles:
    """The tensors that files hold, whole or by rows.

    Args:
        paths: the files.
        wholes: what they hold, already checked; None: one file that holds whole tensors.

    All methods raise a CheckpointError where a file is damaged, or gone: a training that runs
    removes old checkpoints.
    """

    def __init__(self, paths: list[Path], wholes: dict[str, Whole] | None = None) -> None:
        self._paths = paths
        self._open: dict[int, Any] = {}
        self._shares: dict[str, int] = {}  # of fingerprints, in what this rank alone has read
        self._given = wholes

    @functools.cached_property
    def wholes(self) -> dict[str, Whole]:
        """The tensors, by name.

        Raises:
            CheckpointError: a file without a header that fits it.
        """
        if self._given is not None:
            return self._given
        headers = tensor_headers(self._paths[0])
        return {
            name: Whole(dtype, shape, (0, rows_of(shape)))
            for name, (dtype, shape) in headers.items()
        }

    def read_like(self, name: str, target: Tensor, world: World) -> Tensor:
        """The part of a tensor that this rank needs, placed as another tensor of its shape is.

        Args:
            name: of the tensor.
            target: of the same shape; a DTensor makes a DTensor.
            world: the ranks that read together.
        """
        part = part_of(target, world)
        local = self.read_rows(name, part.begin, part.end, counts=part.is_first)
        if not is_sharded(target):
            return local
        from torch.distributed.tensor import DTensor

        assert isinstance(target, DTensor)
        return DTensor.from_local(
            local,
            target.device_mesh,
            target.placements,
            run_check=False,
            shape=target.shape,
            stride=target.stride(),
        )

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.read_rows(name, 0, rows_of(self.wholes[name].shape))

    def read_rows(self, name: str, begin: int, end: int, *, counts: bool = True) -> Tensor:
        """Rows of a tensor, on the CPU.

        Args:
            name: of the tensor.
            begin: the first row.
            end: the row after the last one.
            counts: False if a rank before this one reads the same rows: all that count are added up
                by `verify`.
        """
        local, whole = self._rows(name, begin, end), self.wholes[name]
        if whole.fingerprint is None:
            return local
        if (begin, end) == (0, rows_of(whole.shape)):
            if format_fingerprint(fingerprint(local)) != whole.fingerprint:
                raise self._altered([name])
        elif counts and begin < end:
            self._shares[name] = fingerprint(local, begin * math.prod(whole.shape[1:]))
        return local

    def _rows(self, name: str, begin: int, end: int) -> Tensor:
        whole = self.wholes[name]
        found: Tensor | None = None
        try:
            if not whole.shape:
                number: Tensor = self._file(0).get_tensor(name)
                return number
            for file, (first, last) in enumerate(itertools.pairwise(whole.rows)):
                low, high = max(begin, first), min(end, last)
                if low < high:
                    rows: Tensor = self._file(file).get_slice(name)[low - first : high - first]
                    if (first, last) == (begin, end):
                        return rows  # mapped from the file: it takes memory when it is used
                    if found is None:
                        found = rows.new_empty((end - begin, *whole.shape[1:]))
                    found[low - begin : high - begin] = rows
            nothing: Tensor = self._file(0).get_slice(name)[0:0]
            return nothing if found is None else found
        except (OSError, SafetensorError) as error:
            raise _not_readable(self._paths[0].parent, error) from None

    def _file(self, number: int) -> Any:
        if number not in self._open:
            self._open[number] = safe_open(self._paths[number], framework="pt")
        return self._open[number]

    def verify(self, world: World) -> None:
        """Check what was read against the fingerprints of the whole tensors, on all ranks together.

        Raises:
            CheckpointError: rows that are not those that were saved in this place.
        """
        names = sorted(self.wholes)
        shares = agreed(world, lambda: [self._shares.get(name) for name in names])
        wrong = []
        for name, *given in zip(names, *shares, strict=True):
            read = [share for share in given if share is not None]
            if read and format_fingerprint(sum(read)) != self.wholes[name].fingerprint:
                wrong.append(name)
        if wrong:
            raise self._altered(wrong)

    def _altered(self, names: list[str]) -> CheckpointError:
        return CheckpointError(
            f"{self._paths[0].parent} must hold the numbers that were saved, each in its place",
            got=f"other ones in {', '.join(names)}",
        )


def format_fingerprint(total: int) -> str:
    """A fingerprint, or the sum of those of the parts, as `state.json` has it."""
    return f"{total % MODULUS:016x}"


def dtype_name(dtype: torch.dtype) -> str:
    """As `state.json` has it: "float32"."""
    return str(dtype).removeprefix("torch.")


def tensor_headers(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtypes and shapes of the tensors in a file, by name; only its header is read.

    Raises:
        CheckpointError: no header that fits the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return {
                name: (dtype_name(each.dtype), tuple(each.shape)) for name, each in tensors.items()
            }
    except (OSError, SafetensorError) as error:
        raise _not_readable(path, error) from None


def _not_readable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} must be a safetensors file", got=str(error))
