"""Sizes of a GPT: an invalid config raises an error that helps; nothing here loads torch."""

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest

from metronorm.errors import ConfigError
from metronorm.models.config import GPTConfig, preset

TINY = GPTConfig(vocab_size=13, context=10, layers=2, heads=4, width=24)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 5}, "heads must divide width; got heads=5, width=24; try: heads=4, or width=25"),
        ({"kv_heads": 3}, "kv_heads must divide heads; got kv_heads=3, heads=4; try: kv_heads=2"),
        ({"kv_heads": 0}, "kv_heads must be a whole number of at least 1; got 0"),
        ({"width": 20}, "even head size .* head size 5; try: width=24, or positions='learned'"),
        ({"vocab_size": 0}, "vocab_size must be a whole number of at least 1; got 0"),
        ({"context": -1}, "context must be a whole number of at least 1; got -1"),
        ({"width": 2**31}, r"width must be below 2\*\*31; got 2147483648"),
        ({"layers": 2.0}, "layers must be a whole number of at least 1; got 2.0"),
        ({"heads": True}, "heads must be a whole number of at least 1; got True"),
        ({"norm": "batch"}, "norm must be one of 'layer', 'rms'; got 'batch'"),
        ({"mlp": "relu"}, "mlp must be one of 'gelu', 'gelu_tanh', 'swiglu'; got 'relu'"),
        ({"positions": "none"}, "positions must be one of 'learned', 'rotary'; got 'none'"),
        ({"tie_embeddings": 1}, "tie_embeddings must be one of True, False; got 1"),
        ({"bias": "no"}, "bias must be one of True, False; got 'no'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1; got 1.0"),
        ({"dropout": math.nan}, "dropout must be at least 0 and below 1; got nan"),
    ],
)
def test_invalid_sizes_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(TINY, **changes)


def test_the_error_for_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="one of 'quick', 'small', 'gpt2'; got 'huge'"):
        preset("huge")


def test_configs_load_without_torch() -> None:
    code = "import sys, metronorm.models.config, metronorm.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("changes", "inner"),
    [({"mlp": "gelu"}, 96), ({"mlp": "gelu_tanh"}, 96), ({"mlp": "swiglu"}, 64)],
)
def test_the_feed_forward_size_depends_on_its_kind(changes: dict[str, Any], inner: int) -> None:
    assert dataclasses.replace(TINY, **changes).hidden == inner


def test_key_heads_default_to_heads() -> None:
    assert TINY.key_heads == 4
    assert dataclasses.replace(TINY, kv_heads=2).key_heads == 2
