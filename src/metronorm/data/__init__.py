"""Load, check and memory-map data. Nothing here needs torch, downloads or unpickles.

    from metronorm.data import TextConfig, WindowSampler, prepare

    dataset = prepare(TextConfig(data=("books/",), tokenizer="bpe"))
    batches = WindowSampler(dataset.train, context=256, batch_size=32, seed=0)
    inputs, targets = next(batches)  # (batch, context) int64

Read `text` first (from documents to token files), then `sources` and `corpus` (which documents),
`split`, `tokenizer`, and `sampler` (from token files to batches).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metronorm.data.config import TextConfig

if TYPE_CHECKING:
    from metronorm.data.dataset import TextDataset, open_dataset
    from metronorm.data.images import fashion_mnist
    from metronorm.data.interactions import movielens_100k
    from metronorm.data.mixture import Mixture
    from metronorm.data.pitch import find_pitch
    from metronorm.data.sampler import WindowSampler, validation_windows
    from metronorm.data.shuffled import InOrder, Planned, Shuffled
    from metronorm.data.sound import read_sound, resample
    from metronorm.data.spectrogram import log_mel
    from metronorm.data.speech import czech_lines, mandarin_syllables
    from metronorm.data.text import prepare
    from metronorm.data.tokenizer import Tokenizer, stream_decode
    from metronorm.data.tokenizer_file import load_tokenizer

__all__ = [
    "InOrder",
    "Mixture",
    "Planned",
    "Shuffled",
    "TextConfig",
    "TextDataset",
    "Tokenizer",
    "WindowSampler",
    "czech_lines",
    "fashion_mnist",
    "find_pitch",
    "load_tokenizer",
    "log_mel",
    "mandarin_syllables",
    "movielens_100k",
    "open_dataset",
    "prepare",
    "read_sound",
    "resample",
    "stream_decode",
    "validation_windows",
]

_MODULES = {
    "InOrder": "shuffled",
    "Mixture": "mixture",
    "Planned": "shuffled",
    "Shuffled": "shuffled",
    "czech_lines": "speech",
    "fashion_mnist": "images",
    "find_pitch": "pitch",
    "log_mel": "spectrogram",
    "mandarin_syllables": "speech",
    "read_sound": "sound",
    "resample": "sound",
    "TextDataset": "dataset",
    "Tokenizer": "tokenizer",
    "WindowSampler": "sampler",
    "load_tokenizer": "tokenizer_file",
    "movielens_100k": "interactions",
    "open_dataset": "dataset",
    "prepare": "text",
    "stream_decode": "tokenizer",
    "validation_windows": "sampler",
}


def __getattr__(name: str) -> Any:
    """Import a name that needs numpy when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
