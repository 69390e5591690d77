"""Elementwise work on large tensors, a piece that fits the caches at a time.

A tick makes several sweeps over the same memory (decay, update, carry). Done piece by piece, all
but the first find it in the caches, and the tick moves the bytes of one sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from metronorm.errors import ConfigError
from metronorm.optim._torch_private import is_flattened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

ELEMENTS = 1 << 17  # of a piece: half a megabyte of each tensor in float32


def local(tensor: Tensor) -> Tensor:
    """The tensor, or of one that is spread over ranks the part that lies on this one."""
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """In which to sum what is like this tensor: its own, but no less than float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def accumulate_in_float32(parameter: Tensor) -> None:
    """Let autograd keep the gradient of a half-precision parameter in float32."""
    # FSDP sets .grad itself, at first in the dtype that it reduces in
    free = local(parameter) is not parameter or is_flattened(parameter)
    dtype = None if free and parameter.dtype.itemsize < 4 else sum_dtype(parameter)
    if parameter.grad_dtype == dtype:
        return
    given, parameter.grad = parameter.grad, None
    parameter.grad_dtype = dtype
    if given is not None:
        parameter.grad = given.to(sum_dtype(parameter))


def expanded(tensor: Tensor) -> bool:
    """Whether elements share their memory: then nothing can change the tensor in place."""
    if tensor.layout is not torch.strided:
        return False
    return any(not step and n > 1 for n, step in zip(tensor.shape, tensor.stride(), strict=True))


def alone(tensor: Tensor) -> Tensor:
    """The tensor, or its copy if its memory holds more than it.

    That is so in DDP's buckets, which are overwritten, and wherever tensors are slices of one (of
    FSDP, of a concatenation), whose versions torch counts together.
    """
    part = local(tensor)
    return tensor.clone() if part.untyped_storage().nbytes() > part.nbytes else tensor


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same elements of the same memory, as a view of all of it is.

    Raises:
        ConfigError: they share only some of it.
    """
    one, other = local(one), local(other)
    if one is other:
        return True
    if one.layout is not torch.strided or other.layout is not torch.strided or not one.numel():
        return False
    if one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
        return False
    if _place(one) == _place(other):
        return True
    raise ConfigError(
        "a .grad must be the memory of what it carries, or none of it",
        got=f"strides {one.stride()} over a part of it",
        fix=".clone() what is assigned to .grad",
    )


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def fade(tensor: Tensor, momentum: float) -> None:
    """Multiply by the momentum; by 0, nothing stays, not even of what is infinite or NaN."""
    if momentum:
        tensor.mul_(momentum)
    else:
        tensor.zero_()


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has whole, spread over the ranks as another one is."""
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    whole = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(placements=like.placements)


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding pieces of tensors of one shape, as flat views: together all of them.

    Tensors that are not all contiguous, and those of accelerators, come as one piece.
    """
    parts = tuple(local(tensor) for tensor in tensors)
    first = parts[0]
    if (
        first.numel() <= ELEMENTS
        or first.device.type != "cpu"
        or not all(part.is_contiguous() for part in parts)
    ):
        yield parts
        return
    yield from zip(*(part.view(-1).split(ELEMENTS) for part in parts), strict=True)


def add(
    parameter: Tensor, update: Tensor, alpha: float, *, kept: float = 1.0, stochastic: bool = False
) -> None:
    """`parameter = kept * parameter + alpha * update`, in the wider of the two dtypes.

    Args:
        parameter: changed in place.
        update: of the same shape.
        alpha: its factor.
        kept: what decoupled weight decay leaves of the parameter.
        stochastic: round a bfloat16 parameter up or down at random, with probabilities that make
            the mean of the results the exact sum: small updates are not lost. The random bits come
            from torch's generator.
    """
    if not stochastic or parameter.dtype != torch.bfloat16:
        if kept != 1:
            parameter.mul_(kept)
        parameter.add_(update, alpha=alpha)
        return
    exact = parameter.float().mul_(kept).add_(update, alpha=alpha)
    bits = exact.view(torch.int32)  # the lower half is what bfloat16 leaves out
    bits.add_(torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device))
    bits.bitwise_and_(-(1 << 16))
    parameter.copy_(exact)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no element is infinite or NaN; on this rank."""
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
    # squares overflow long before the elements do
    return all(bool(local(tensor).isfinite().all()) for tensor in tensors)
