"""Loads the C++ kernels for CPUs, if they were built, and chooses among their instruction sets.

The kernels replace `composed.py` on CPUs. Two environment variables change the choice:
`METRONORM_NORM` names one of `backends()` instead of the fastest, `METRONORM_KERNELS` is the path
of another library.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import warnings
from typing import TYPE_CHECKING

import torch

from metronorm.errors import ConfigError
from metronorm.norm import operators
from metronorm.norm._torch_private import remove_kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

_TORCH = "torch"  # the backend without kernels


def _load() -> ctypes.CDLL | None:
    """The library of the kernels; None, with one warning, if it cannot be loaded."""
    found = importlib.util.find_spec("metronorm.norm._kernels")
    path = os.environ.get("METRONORM_KERNELS") or (None if found is None else found.origin)
    try:
        if path is None:
            raise OSError("they were not built, because the installation found no C++ compiler")
        torch.ops.load_library(path)
        library = ctypes.CDLL(path)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"metronorm.norm runs on torch's operators, without its C++ kernels: {error}",
            stacklevel=2,
        )
        return None
    library.metronorm_name.restype = ctypes.c_char_p
    return library


_library = _load()
_override: torch.library.Library | None = None


def backends() -> tuple[str, ...]:
    """All that this CPU can run, from slow to fast: "torch", "plain", "avx2", ..."""
    if _library is None:
        return (_TORCH,)
    return _TORCH, *(
        _library.metronorm_name(index).decode() for index in range(_library.metronorm_count())
    )


def backend() -> str:
    """What computes normalization on the CPU.

    Returns:
        The instruction set of the C++ kernels in use: "avx512_bf16", "avx512", "avx2", "neon" or
        "plain". "torch" means torch's own operators: no kernels were built.
    """
    if _library is None or _override is not None:
        return _TORCH
    current: int = _library.metronorm_current()
    return backends()[1 + current]


def choose(name: str) -> None:
    """Compute with one of `backends()` from now on, in this process.

    Raises:
        ConfigError: the name is not one of them.
    """
    global _override
    if name not in backends():
        raise ConfigError(
            f"a backend must be one of {', '.join(backends())}", got=repr(name), fix="the last one"
        )
    if _override is not None:
        remove_kernels(_override)
        _override = None
    if name != _TORCH and _library is not None:
        _library.metronorm_choose(backends().index(name) - 1)
    elif _library is not None:
        _override = torch.library.Library("metronorm", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the override
            for operator, implementation in operators.COMPOSED.items():
                _override.impl(operator, implementation, "CPU", allow_override=True)


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Compute with one of `backends()` inside the block; for tests and benchmarks."""
    before = backend()
    choose(name)
    try:
        yield
    finally:
        choose(before)


if os.environ.get("METRONORM_NORM"):
    choose(os.environ["METRONORM_NORM"])
