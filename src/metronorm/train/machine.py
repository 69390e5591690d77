"""What this machine is good at, found by measuring the model itself: precision and allocator."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time
from typing import TYPE_CHECKING, Literal

import torch

from metronorm.errors import ConfigError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metronorm.models.config import GPTConfig

Precision = Literal["fp32", "bf16"]
Allocator = Literal["system", "keep"]

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30
_SYSTEM_BYTES = 32 << 20  # where glibc's own adaptation ends

_LEAST_TURNS, _MOST_TURNS = 3, 20
_ENOUGH_SECONDS, _LONG_SECONDS = 1.0, 10.0


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context a forward pass runs in; a context to enter as often as wanted."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def choose_device(name: str) -> torch.device:
    """The device of this name; auto is the accelerator, where there is one, else the processor.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.empty(0, device=name).device
        if device.type == "meta":
            raise RuntimeError("which computes nothing")
        return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            "device must be one of this machine's", got=f"{name!r} ({reason})"
        ) from None


def choose_precision(
    step: Callable[[Precision], None],
    device: torch.device,
    *,
    now: Callable[[], float] = time.perf_counter,
) -> Precision:
    """Fp32 or bf16, whichever runs `step(precision)`, one forward and backward pass, faster.

    On a processor both are timed, in turn; an accelerator that has bf16 is taken at its word.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    fp32, bf16 = _race(now, lambda: step("fp32"), lambda: step("bf16"))
    return "bf16" if bf16 < fp32 else "fp32"


def choose_allocator(
    step: Callable[[], None], *, now: Callable[[], float] = time.perf_counter
) -> Allocator:
    """Make the C allocator keep large blocks if `step()` runs faster that way.

    Memory that malloc returns to the system after every use comes back as fresh pages, each of
    which costs a fault; on large activations those can outweigh the arithmetic.
    """
    if not keep_large_blocks(True):
        return "system"
    keep_large_blocks(False)
    (before,) = _race(now, step)
    keep_large_blocks(True)
    (after,) = _race(now, step)
    if after < before:
        return "keep"
    keep_large_blocks(False)
    return "system"


def keep_large_blocks(keep: bool) -> bool:
    """Set from which size on malloc returns memory to the system; False where it is not glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    size = _KEEP_BYTES if keep else _SYSTEM_BYTES
    trim = min(2 * size, 2**31 - 1)  # a C int
    return bool(mallopt(_M_MMAP_THRESHOLD, size)) and bool(mallopt(_M_TRIM_THRESHOLD, trim))


def check_memory(config: GPTConfig, batch_size: int, *, available: int | None = None) -> None:
    """Refuse a training that cannot fit, before the system kills the process for it.

    Counted is what a forward and backward pass must hold at the least: the weights and their
    gradient in fp32; for the micro-batch the logits and their gradient in fp32, and eight
    activations of every block in bf16.

    Args:
        config: of the model.
        batch_size: sequences in a micro-batch.
        available: bytes of memory; None: what the system says is free (Linux; elsewhere unknown).

    Raises:
        OutOfMemoryError: the least is more than that.
    """
    if available is None:
        available = _available_bytes()
    check_model_memory(config, copies=2, available=available)
    tokens = batch_size * config.context
    least = tokens * (2 * 4 * config.vocab_size + 8 * 2 * config.layers * config.width)
    if available is not None and least > available:
        raise OutOfMemoryError(
            f"a micro-batch of {batch_size} x {config.context} tokens needs at least "
            f"{least / 2**30:,.1f} GiB of memory",
            got=f"{available / 2**30:,.1f} GiB free",
            fix="a smaller --batch-size with more --micro-batches, which gives the same update",
        )


def check_model_memory(config: GPTConfig, *, copies: int = 1, available: int | None = None) -> None:
    """Refuse a model that cannot fit, before any memory is taken for it.

    Counted are the weights in fp32, the tables of rotary positions while they are made, and keys
    and values of one context.

    Args:
        config: of the model.
        copies: of the weights.
        available: bytes of memory; None: what the system says is free (Linux; elsewhere unknown).

    Raises:
        OutOfMemoryError: the least is more than that.
    """
    if available is None:
        available = _available_bytes()
    tables = config.context * config.head_size
    cache = 2 * config.layers * config.key_heads * tables
    least = 4 * copies * config.parameters + 4 * 8 * tables + 4 * cache
    if available is not None and least > available:
        raise OutOfMemoryError(
            f"a model of {config.parameters:,} parameters needs at least "
            f"{least / 2**30:,.1f} GiB of memory",
            got=f"{available / 2**30:,.1f} GiB free",
            fix="a smaller --model.width, --model.layers or --model.context",
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, NumPy or Python says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def out_of_memory(error: BaseException, *, resume: bool) -> OutOfMemoryError:
    """What to tell of an error that says that memory ran out; a resume refuses smaller batches."""
    known = error if isinstance(error, OutOfMemoryError) and error.got else None
    smaller = "a smaller --batch-size with more --micro-batches, which gives the same update"
    fix = known.fix if known and known.fix else smaller
    return OutOfMemoryError(
        known.must if known else "a training must fit into memory",
        got=known.got if known else str(error).partition("\n")[0],
        fix=f"free memory on this machine, or start a new run with {fix}" if resume else fix,
    )


def _available_bytes() -> int | None:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


@contextlib.contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Let steps be tried out: afterwards no gradient and no random number is missing."""
    with torch.random.fork_rng():
        yield
    model.zero_grad(set_to_none=True)


def _race(now: Callable[[], float], *steps: Callable[[], None]) -> list[float]:
    """Least seconds of each, run in turn: three to twenty times, one to ten seconds in all.

    The least, because whatever else the machine does only ever adds to it.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()  # the first time kernels are built and memory is fetched
    begun = now()
    for turn in range(_MOST_TURNS):
        for step, times in zip(steps, seconds, strict=True):
            begin = now()
            step()
            times.append(now() - begin)
        spent = now() - begun
        if spent > _LONG_SECONDS or (turn + 1 >= _LEAST_TURNS and spent > _ENOUGH_SECONDS):
            break
    return [min(times) for times in seconds]
