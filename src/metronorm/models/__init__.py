"""One self-contained file per architecture; sizes and presets are in `config` (torch-free)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metronorm.models.config import PRESETS, GPTConfig, preset

if TYPE_CHECKING:
    from metronorm.models.gpt import GPT, KVCache
    from metronorm.models.sampling import sample

__all__ = ["GPT", "PRESETS", "GPTConfig", "KVCache", "preset", "sample"]


_MODULES = {"GPT": "gpt", "KVCache": "gpt", "sample": "sampling"}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
