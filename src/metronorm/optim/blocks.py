"""Elementwise work on large tensors, one piece that fits the caches at a time; and their memory.

A tick changes the same memory several times (decay, update, momentum). Piece by piece, only the
first of these operations reads from memory: the others find the piece in the caches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from metronorm.errors import ConfigError
from metronorm.optim._torch_private import is_flattened, largest_of_each

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

PIECE_ELEMENTS = 1 << 17  # half a megabyte of each tensor in float32
ZEROS = 1 << 14  # multiplied by elements to find what is not finite; they stay in the caches


def local(tensor: Tensor) -> Tensor:
    """The part of a DTensor that lies on this rank; any other tensor itself."""
    to_local = getattr(tensor, "to_local", None)
    if to_local is None:
        return tensor
    with torch.no_grad():  # without a node of the graph
        part: Tensor = to_local()
    return part


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype in which to add up tensors like this one: its own, but at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def accumulate_in_float32(parameter: Tensor) -> None:
    """Make autograd keep the gradient of a half-precision parameter in float32.

    A gradient that is there already is converted.
    """
    # FSDP sets .grad itself, at first in the dtype in which it reduces: None allows any
    sharded = local(parameter) is not parameter or is_flattened(parameter)
    dtype = None if sharded and parameter.dtype.itemsize < 4 else sum_dtype(parameter)
    if parameter.grad_dtype == dtype:
        return
    gradient, parameter.grad = parameter.grad, None  # torch refuses another dtype beside it
    parameter.grad_dtype = dtype
    if gradient is not None:
        parameter.grad = gradient.to(sum_dtype(parameter))


def shares_elements(tensor: Tensor) -> bool:
    """Whether several elements are the same memory (`expand()`): torch cannot write to such."""
    if tensor.layout is not torch.strided:
        return False
    return any(not step and n > 1 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def with_own_storage(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it where its storage also holds something else.

    Examples are the buckets of DDP, which DDP overwrites, and slices of one large tensor (FSDP, a
    concatenation), for which torch counts one version together.
    """
    part = local(tensor)
    return tensor.clone() if part.untyped_storage().nbytes() > part.nbytes else tensor


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements of the same memory, as a tensor and its `.data`.

    Raises:
        ConfigError: they share a storage, but not element by element.
    """
    one, other = local(one), local(other)
    if one is other:
        return True
    if one.layout is not torch.strided or other.layout is not torch.strided or not one.numel():
        return False
    if one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    if _layout(one) == _layout(other):
        return True
    raise ConfigError(
        "a .grad must be the memory of the accumulated sum, or none of it",
        got=f"strides {one.stride()} over a part of it",
        fix="assign a .clone() to .grad",
    )


def _layout(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def apply_momentum(total: Tensor, momentum: float) -> None:
    """Multiply a sum by the momentum, in place; a momentum of 0 also removes infinities and NaN."""
    if momentum:
        total.mul_(momentum)
    else:
        total.zero_()


def distribute_like(tensor: Tensor, other: Tensor) -> Tensor:
    """Shard a tensor that every rank holds whole, as the DTensor `other` is."""
    from torch.distributed.tensor import DTensor, Replicate  # here, because it loads slowly

    assert isinstance(other, DTensor)
    mesh = other.device_mesh
    whole = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(placements=other.placements)


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over the same pieces of several tensors of one shape, as flat views.

    There is one piece, the whole tensors, where one of them is not contiguous or where they are on
    an accelerator.
    """
    parts = tuple(local(tensor) for tensor in tensors)
    first = parts[0]
    if (
        first.numel() <= PIECE_ELEMENTS
        or first.device.type != "cpu"
        or not all(part.is_contiguous() for part in parts)
    ):
        yield parts
        return
    yield from zip(*(part.view(-1).split(PIECE_ELEMENTS) for part in parts), strict=True)


def add(
    parameter: Tensor,
    update: Tensor,
    alpha: float,
    *,
    kept: float = 1.0,
    stochastic: bool = False,
    held: Tensor | None = None,
) -> None:
    """`parameter = kept * parameter + alpha * update`, computed in the wider of the two dtypes.

    Args:
        parameter: changed in place.
        update: of the same shape.
        alpha: the factor of the update.
        kept: the factor of the parameter, which is below 1 with decoupled weight decay.
        stochastic: round a bfloat16 parameter up or down at random, so that the mean of the results
            is the exact sum: then small updates are not lost. The random bits come from torch's
            generator.
        held: a 0-dim bool tensor on the same device. Where it is True, the parameter stays as it
            is, bit for bit, whatever the update holds.
    """
    if not stochastic or parameter.dtype != torch.bfloat16:
        if held is not None:
            if kept == 1:
                moved = torch.add(parameter, update, alpha=alpha).to(parameter.dtype)
            else:
                moved = parameter.mul(kept).add_(update, alpha=alpha)
            torch.where(held, parameter, moved, out=parameter)
            return
        if kept != 1:
            parameter.mul_(kept)
        parameter.add_(update, alpha=alpha)
        return
    exact = parameter.float().mul_(kept).add_(update, alpha=alpha)
    bits = exact.view(torch.int32)  # bfloat16 is the upper half of them
    # four elements share a draw, which takes most of the time
    drawn = -(-bits.numel() // 4)
    chance = torch.randint(-(1 << 63), (1 << 63) - 1, (drawn,), device=bits.device)
    halves = chance.view(torch.int16)[: bits.numel()].view(bits.shape)
    bits.add_(halves).add_(1 << 15)  # from 0 to 2**16 - 1 more
    bits.bitwise_and_(-(1 << 16))
    if held is None:
        parameter.copy_(exact)
    else:
        torch.where(held, parameter, exact.to(parameter.dtype), out=parameter)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no element on this rank is infinite or NaN. Waits for the devices of the tensors."""
    # a sum of squares reads every element once, and waits once per device, not once per tensor
    squares = []
    for tensor in tensors:
        part = local(tensor).detach()
        if part.is_complex():
            part = torch.view_as_real(part)
        flat = part.flatten()
        squares.append(torch.dot(flat, flat))
    by_device: dict[torch.device, list[Tensor]] = {}
    for square in squares:
        by_device.setdefault(square.device, []).append(square.float())
    if all(torch.stack(each).sum().isfinite().item() for each in by_device.values()):
        return True
    # squares overflow long before the elements do: look at the elements themselves
    return all(bool(local(tensor).isfinite().all()) for tensor in tensors)


def any_nonfinite(tensors: Sequence[Tensor]) -> Tensor:
    """Whether an element on this rank is infinite or NaN: a 0-dim bool tensor, without waiting.

    Args:
        tensors: at least one, all of one device.
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        part = local(tensor).detach()
        if part.is_complex():
            part = torch.view_as_real(part)
        if part.numel():
            by_dtype.setdefault(part.dtype, []).append(part)
    flags = [_witnesses(parts).isfinite().all() for parts in by_dtype.values()]
    if not flags:
        return torch.zeros((), dtype=torch.bool, device=local(tensors[0]).device)
    return torch.stack(flags).all().logical_not()


def _witnesses(parts: list[Tensor]) -> Tensor:
    """A vector in which a number is infinite or NaN exactly if an element of the parts is."""
    if parts[0].device.type != "cpu":
        return torch.stack(largest_of_each(parts))
    # 0 times an infinity or NaN is NaN, and 0 times anything else is 0, which cannot overflow. So
    # this takes no longer than a dot product; norms of order infinity take forty times as long.
    zeros = parts[0].new_zeros(ZEROS)
    products = []
    for part in parts:
        flat, rest = part.flatten(), part.numel() % ZEROS
        products.append(torch.mv(flat[: flat.numel() - rest].view(-1, ZEROS), zeros))
        products.append(torch.dot(flat[flat.numel() - rest :], zeros[:rest]).view(1))
    return torch.cat(products)
