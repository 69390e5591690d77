"""Runs the GPU kernels in Triton's interpreter, on the CPU, and puts everything back.

`TRITON_INTERPRET` decides at the import of Triton, for the whole process. This module interprets
our kernels, and Triton's own functions that are written in Triton, inside a block only. It does not
matter how Triton was imported, and everything else in the process can still be compiled.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.language import random, standard
from triton.runtime import interpreter, jit

from metronorm.norm import gpu, operators, triton_kernels, triton_tiles, triton_wide

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Interpreted(interpreter.InterpretedFunction):
    """A function called by an interpreted kernel, which has already patched `triton.language`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.rewrite()(*args, **kwargs)


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Inside the block the public modules use the GPU kernels for tensors on the CPU."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))  # infinities and NaN are allowed
        patch.setenv("TRITON_INTERPRET", "1")
        known: dict[Any, Any] = {}
        for module in (tl, standard, random, triton_kernels, triton_wide, triton_tiles):
            for name, value in [*vars(module).items()]:
                if isinstance(value, jit.JITFunction):
                    known.setdefault(value, _Interpreted(value.fn))
                    patch.setattr(module, name, known[value])
        for builder in ("create_fp_trunc", "create_fp_to_fp"):
            patch.setattr(interpreter.InterpreterBuilder, builder, _rounded(builder))
        stack.callback(interpreter._patch_lang(standard.zeros.fn).restore)
        for name in ("norm", "add_norm", "norm_backward"):
            patch.setattr(operators, f"_{name}", getattr(gpu, name))
        yield


def _rounded(name: str) -> Any:
    """Conversion to bfloat16 that rounds to nearest, as GPUs do; the interpreter truncates."""
    before = getattr(interpreter.InterpreterBuilder, name)

    def convert(self: Any, source: Any, to: Any, *args: Any) -> Any:
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            values = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16()
            data = values.view(torch.int16).numpy().view(np.uint16)
            return interpreter.TensorHandle(data, tl.bfloat16)
        return before(self, source, to, *args)

    return convert
