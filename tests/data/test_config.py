import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metronorm.data.config import TextConfig, default_cache
from metronorm.errors import ConfigError


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": "a.txt"},
        {"data": Path("a.txt")},
        {"data": None},
        {"data": (1,)},
        {"data": ("a.txt", "")},
        {"cache": 1},
        {"cache": ""},
        {"tokenizer": "words"},
        {"vocab_size": 256},
        {"vocab_size": 1000.0},
        {"vocab_size": True},
        {"validation": 0},
        {"validation": 0.6},
        {"validation": float("nan")},
        {"validation": "0.1"},
        {"split_seed": 0.5},
        {"split_seed": None},
    ],
)
def test_a_wrong_value_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="got") as caught:
        TextConfig(**wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_numbers_of_other_kinds_become_plain_numbers() -> None:
    config = TextConfig(
        vocab_size=np.int64(300),  # type: ignore[arg-type]
        validation=np.float64(0.25),
        split_seed=np.array(7),  # type: ignore[arg-type]
    )
    assert config == TextConfig(vocab_size=300, validation=0.25, split_seed=7)
    for value, kind in ((config.vocab_size, int), (config.validation, float)):
        assert type(value) is kind
    assert type(config.split_seed) is int


def test_paths_become_absolute_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = TextConfig(data=("a.txt", "b/*.txt", "/c"), cache=Path("cache"))
    assert config.data == (str(tmp_path / "a.txt"), str(tmp_path / "b/*.txt"), "/c")
    assert config.cache == tmp_path / "cache"
    monkeypatch.chdir("/")
    assert replace(config) == config


def test_the_cache_honours_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "metronorm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says: ignore it
    assert default_cache() == Path.home() / ".cache" / "metronorm"


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("metronorm.data, metronorm.data.config, metronorm.cli.prepare", "numpy tokenizers torch"),
        ("metronorm.data.text, metronorm.data.sampler", "tokenizers torch"),
        ("metronorm.data.bpe_tokenizer", "torch"),
    ],
)
def test_imports_stay_light(modules: str, absent: str) -> None:
    code = f"import sys, {modules}; sys.exit(' '.join(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
