from dataclasses import replace
from pathlib import Path

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


def test_what_is_no_config() -> None:
    with pytest.raises(ConfigError, match="must be a training's"):
        config_from_dict(config_to_dict(Config()) | {"ticks": "many"}, Config)
    with pytest.raises(ConfigError, match="a run of another kind"):
        config_from_dict({"learning_rate": 0.1}, Config)
    with pytest.raises(ConfigError, match="preset must be one of quick, small, gpt2"):
        training_preset("huge")
