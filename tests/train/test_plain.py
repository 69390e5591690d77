from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from metronorm.errors import ConfigError
from metronorm.train import TrainConfig, training_preset
from metronorm.train.plain import check_resumable, differences, from_plain, to_plain
from metronorm.train.presets import TRAINING_PRESETS


@pytest.mark.parametrize("name", TRAINING_PRESETS)
def test_a_config_survives_json(name: str) -> None:
    config = training_preset(name)
    config = replace(config, text=replace(config.text, cache=Path("a/b"), data=("x.txt",)))
    plain = msgspec.json.decode(msgspec.json.encode(to_plain(config)))
    assert from_plain(plain) == replace(config, text=replace(config.text, cache=None))
    assert differences(plain, to_plain(config)) == []


def test_every_difference_is_listed() -> None:
    old = to_plain(TrainConfig())
    new = TrainConfig(ticks=7, keep=9)
    new = replace(new, model=replace(new.model, layers=3))
    with pytest.raises(ConfigError) as caught:
        check_resumable(new, old)
    assert "model.layers: 4 in the run, 3 asked for" in str(caught.value)
    assert f"ticks: {TrainConfig().ticks} in the run, 7 asked for" in str(caught.value)
    assert "keep:" not in str(caught.value)  # free to change


def test_what_is_no_config() -> None:
    with pytest.raises(ConfigError, match="must be a training's"):
        from_plain(to_plain(TrainConfig()) | {"ticks": "many"})
    with pytest.raises(ConfigError, match="a run of another kind"):
        from_plain({"learning_rate": 0.1})
    with pytest.raises(ConfigError, match="preset must be one of quick, small, gpt2"):
        training_preset("huge")
