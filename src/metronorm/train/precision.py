"""Device, precision and allocator: what this machine runs a model fastest in, as measured."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Literal

import torch

from metronorm.allocator import Allocator, give_back, keep_large_blocks
from metronorm.errors import ConfigError
from metronorm.train.buffers import copies, places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Fixed = Literal["fp32", "bf16"]

_LEAST_TURNS, _MOST_TURNS = 3, 20
_ENOUGH_SECONDS, _LONG_SECONDS = 1.0, 10.0
_HOPELESS = 10.0  # times the fastest, where the first run takes so long that it decides


def autocast(device: torch.device, precision: Fixed) -> torch.autocast:
    """The context a forward pass runs in; a context to enter as often as wanted."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def choose_device(name: str) -> torch.device:
    """The device of this name; auto is the accelerator where there is one, else the CPU.

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
    step: Callable[[Fixed], object],
    device: torch.device,
    *,
    now: Callable[[], float] = time.perf_counter,
) -> Fixed:
    """Fp32, or bf16 if that runs `step(precision)`, a forward and backward pass, clearly faster.

    On a CPU both are timed, in turn; an accelerator that says it has bf16 is believed. Clearly: by
    a tenth. Less is noise, which must not decide how numbers are rounded.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    fp32, bf16 = _race(now, lambda: step("fp32"), lambda: step("bf16"))
    return "bf16" if bf16 < 0.9 * fp32 else "fp32"


def choose_allocator(
    step: Callable[[], object], *, now: Callable[[], float] = time.perf_counter
) -> Allocator:
    """Make the C allocator keep large blocks if `step()` runs faster that way."""
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


@contextlib.contextmanager
def discarding_gradients(model: torch.nn.Module) -> Iterator[None]:
    """Let steps be tried out: afterwards there are no gradients, and all else is as it was.

    That is: torch's random numbers, and buffers such as the running statistics of BatchNorm.
    """
    before = [(*place, getattr(*place)) for place in places(model).values()]
    copied = copies(model)
    with torch.random.fork_rng():
        yield
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for (module, name, buffer), copy in zip(before, copied.values(), strict=True):
            setattr(module, name, buffer.copy_(copy))  # the model may have put another one there
    give_back()  # what trials have held would count as held by the training


def _race(now: Callable[[], float], *steps: Callable[[], object]) -> list[float]:
    """Least seconds of each, run in turn: three to twenty times, one to ten seconds in all.

    The least, because whatever else the machine does only ever adds to it. Where one takes ten
    times as long as another, and seconds, its first run is all: a convolution in bf16 can take
    minutes on a processor that has no instructions for it.
    """
    seconds: list[list[float]] = [[] for _ in steps]
    firsts = []
    for step in steps:
        begin = now()
        step()  # the first time kernels are built and memory is fetched
        firsts.append(now() - begin)
    if max(firsts) > max(_ENOUGH_SECONDS, _HOPELESS * min(firsts)):
        return firsts
    start = now()
    for turn in range(_MOST_TURNS):
        for step, times in zip(steps, seconds, strict=True):
            begin = now()
            step()
            times.append(now() - begin)
        spent = now() - start
        if spent > _LONG_SECONDS or (turn + 1 >= _LEAST_TURNS and spent > _ENOUGH_SECONDS):
            break
    return [min(times) for times in seconds]
