"""Models: one self-contained file per architecture, and `config`, which needs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metronorm.models.config import PRESETS, EncoderConfig, GPTConfig, preset

if TYPE_CHECKING:
    from metronorm.models.actor_critic import ActorCritic
    from metronorm.models.convnext import ConvNeXt
    from metronorm.models.encoder import Encoder
    from metronorm.models.gpt import GPT, KVCache
    from metronorm.models.layouts.files import load_encoder, load_gpt, save_gpt
    from metronorm.models.sampling import sample
    from metronorm.models.sasrec import SASRec
    from metronorm.models.speech_encoder import SpeechEncoder
    from metronorm.models.vit import ViT

__all__ = [
    "GPT",
    "PRESETS",
    "ActorCritic",
    "ConvNeXt",
    "Encoder",
    "EncoderConfig",
    "GPTConfig",
    "KVCache",
    "SASRec",
    "SpeechEncoder",
    "ViT",
    "load_encoder",
    "load_gpt",
    "preset",
    "sample",
    "save_gpt",
]


_MODULES = {
    "ActorCritic": "actor_critic",
    "GPT": "gpt",
    "ConvNeXt": "convnext",
    "Encoder": "encoder",
    "KVCache": "gpt",
    "SASRec": "sasrec",
    "SpeechEncoder": "speech_encoder",
    "ViT": "vit",
    "load_encoder": "layouts.files",
    "load_gpt": "layouts.files",
    "sample": "sampling",
    "save_gpt": "layouts.files",
}


def __getattr__(name: str) -> Any:
    """Import a module that needs torch when one of its names is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
