"""Options of the data: what cannot work is refused where it is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metronorm.errors import ConfigError
from metronorm.finetune.data_config import DataConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "a.jsonl"}, r"data must be a tuple of paths; .* try: \('a.jsonl',\)"),
        ({"validation_data": (3,)}, "validation_data must be a tuple of paths"),
        ({"data": ("",)}, "a path must not be empty"),
        ({"columns": "prompt"}, "columns must be KIND=NAME"),
        ({"columns": ("prompt",)}, "columns must be KIND=NAME"),
        ({"validation": 0.6}, "validation must be from 0 to 0.5; got 0.6"),
        ({"prompt_weight": float("nan")}, "prompt_weight must be from 0 to 1; got nan"),
        ({"max_tokens": 7}, r"max_tokens must be 0 \(the model's context\) or at least 8"),
        ({"limit": -1}, "limit must be at least 0"),
        ({"too_long": "crop"}, "too_long must be one of cut, drop, refuse"),
        ({"turns": "all"}, "turns must be one of together, split"),
        ({"duplicates": "count"}, "duplicates must be one of drop, keep"),
        ({"class_weights": "equal"}, "class_weights must be one of none, balanced"),
        ({"split_seed": 1.0}, "split_seed must be a whole number"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**options)


def test_paths_become_absolute() -> None:
    assert DataConfig(data=("a.jsonl",)).data == (str(Path.cwd() / "a.jsonl"),)


def test_the_options_load_no_framework() -> None:
    code = "import metronorm.finetune.data_config, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "transformers", "tokenizers", "duckdb"}
