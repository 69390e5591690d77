from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metronorm.errors import ConfigError
from metronorm.tasks.text import Config, training_preset
from metronorm.tasks.text.presets import TRAINING_PRESETS
from metronorm.train.config_changes import (
    changes,
    check_resumable,
    config_from_dict,
    config_to_dict,
)


@pytest.mark.parametrize("name", TRAINING_PRESETS)
def test_a_config_survives_json(name: str) -> None:
    config = training_preset(name)
    config = replace(config, text=replace(config.text, cache=Path("a/b"), data=("x.txt",)))
    plain = msgspec.json.decode(msgspec.json.encode(config_to_dict(config)))
    assert config_from_dict(plain, Config) == config
    assert changes(plain, config) == []


def test_every_difference_is_listed() -> None:
    old = config_to_dict(Config())
    new = Config(seed=7, keep=9)
    new = replace(new, model=replace(new.model, layers=3))
    with pytest.raises(ConfigError) as caught:
        check_resumable(new, old)
    assert "model.layers: 4 in the run, 3 asked for" in str(caught.value)
    assert "seed: 0 in the run, 7 asked for" in str(caught.value)
    assert "keep:" not in str(caught.value)  # free to change


def test_an_option_that_is_no_more_is_a_difference() -> None:
    old = {**config_to_dict(Config()), "width": 32}
    with pytest.raises(ConfigError, match="width: 32 in the run, None asked for"):
        check_resumable(Config(), old)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ticks": "many"}, "in c.toml, ticks must be a whole number; got 'many'"),
        ({"compile": 1}, "in c.toml, compile must be true or false; got 1"),
        ({"optimizer": 3}, "in c.toml, optimizer must be a table of options; got 3"),
        ({"optimizer": {"clip": "x"}}, "in c.toml, optimizer.clip must be a number; got 'x'"),
        (
            {"optimizer": {"betas": [0.9]}},
            "in c.toml, optimizer.betas must be a list of length 2; got [0.9]",
        ),
        (
            {"optimizer": {"betas": [0.9, "x"]}},
            "in c.toml, optimizer.betas[1] must be a number; got 'x'",
        ),
        ({"precision": "fp8"}, "in c.toml, precision must be one of auto, fp32, bf16; got 'fp8'"),
        ({"precision": 16}, "in c.toml, precision must be one of auto, fp32, bf16; got 16"),
        ({"ticks": 0}, "in c.toml, ticks must be at least 1; got 0"),
        ({"text": {"data": "a.txt"}}, "in c.toml, text.data must be a list; got 'a.txt'"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict(values, Config, Path("c.toml"))
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"batch_size": 4}, "batch_size * micro_batches must stay 16: with batch_size=4, micro_"),
        ({"micro_batches": 8}, "batches * batch_size must stay 16: with micro_batches=8, batch_si"),
        ({"batch_size": 3}, "; try: batch_size * micro_batches must stay 16"),
    ],
)
def test_another_size_of_beat_needs_another_number_of_beats(
    asked: dict[str, Any], says: str
) -> None:
    old = Config(batch_size=8, micro_batches=2)
    with pytest.raises(ConfigError) as caught:
        check_resumable(replace(old, **asked), config_to_dict(old))
    assert says in str(caught.value)
    check_resumable(replace(old, batch_size=4, micro_batches=4), config_to_dict(old))


def test_what_is_no_config() -> None:
    with pytest.raises(ConfigError, match="a run of another kind"):
        config_from_dict({"learning_rate": 0.1}, Config)
    with pytest.raises(ConfigError, match="preset must be one of quick, small, gpt2"):
        training_preset("huge")
