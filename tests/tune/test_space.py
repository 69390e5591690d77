"""Spaces: what a file may say, what is refused, and which configs a point stands for."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metronorm.errors import ConfigError
from metronorm.tasks.text import Config, training_preset
from metronorm.tune import read_space
from metronorm.tune.built_in import built_in
from metronorm.tune.options import options_of, with_values
from metronorm.tune.space_file import space_from

WHOLE = """
[optimizer.learning-rate]
log = [1e-4, 1e-1]
["optimizer.weight_decay"]
uniform = [0.0, 0.3]
[batch-size]
integers = [4, 16]
step = 4
[optimizer.name]
choices = ["adamw", "ticks_muon"]
[optimizer.matrix-learning-rate]
log = [1e-3, 1e-1]
when = { "optimizer.name" = ["ticks_muon"] }
[optimizer.betas]
choices = [[0.9, 0.95], [0.9, 0.99]]
[shape]
choices = [
    { "model.layers" = 2, "model.width" = 192 },
    { "model.layers" = 4, "model.width" = 128 },
]
"""


def test_a_file_becomes_points_whose_configs_have_the_values(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(WHOLE)
    space = read_space(tmp_path / "space.toml", Config)
    chance, seen = random.Random(0), set()
    for _ in range(50):
        point = space.drawn(chance)
        config = with_values(training_preset("quick"), space.options(point))
        assert 1e-4 <= config.optimizer.learning_rate <= 1e-1
        assert config.batch_size in (4, 8, 12, 16)
        assert ("optimizer.matrix-learning-rate" in point) == (config.optimizer.name != "adamw")
        assert (config.model.layers, config.model.width) in ((2, 192), (4, 128))
        assert isinstance(config.optimizer.betas, tuple)
        assert space.point_of(config) == point
        seen.add((config.model.layers, config.optimizer.name, config.batch_size))
    assert len(seen) > 10
    assert space_from(space.as_dict(), Config) == space
    names = space.names()
    assert {"model.layers", "model.width", "optimizer.betas"} <= set(names)
    assert "shape" not in names


def test_options_have_the_names_of_the_command_line() -> None:
    options = options_of(Config)
    assert options["vocab-size"].path == ("text", "vocab_size")  # a part without a name
    assert options["optimizer.learning-rate"].path == ("optimizer", "learning_rate")
    assert "data-id" not in options  # which the command line does not have


@pytest.mark.parametrize("name", ["quick", "small", "gpt2"])
@pytest.mark.parametrize("structure", [False, True])
def test_every_preset_has_a_space_around_itself(name: str, structure: bool) -> None:
    config = training_preset(name)
    space = built_in(config, structure=structure)
    space.check(config)
    point = space.point_of(config)
    assert point is not None
    assert with_values(config, space.options(point)) == config
    if structure:
        shapes = next(each for each in space.dimensions if each.name == "shape").values
        sizes = [each["model.layers"] * each["model.width"] ** 2 for each in shapes]
        assert max(sizes) / min(sizes) < 1.35


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name like another": (
        {"optimizer.learning-rat": {"log": [1e-3, 1e-1]}},
        "optimizer.learning-rate",
    ),
    "a name without its group": ({"learning_rate": {"log": [1, 2]}}, "optimizer.learning-rate"),
    "a group's option": ({"shape": {"choices": [{"model.layer": 2}]}}, "model.layers"),
    "an empty range": ({"optimizer.clip": {"uniform": [2.0, 1.0]}}, "1 to 2"),
    "no range": ({"optimizer.clip": {"uniform": [1.0, 1.0]}}, "not empty"),
    "a log of zero": ({"optimizer.clip": {"log": [0, 1]}}, "begin above 0"),
    "one end": ({"optimizer.clip": {"uniform": [1]}}, "two numbers"),
    "text for a number": ({"optimizer.clip": {"uniform": ["a", "b"]}}, "two numbers"),
    "parts of a whole number": ({"model.layers": {"integers": [1.5, 2]}}, "two whole numbers"),
    "no choices": ({"optimizer.name": {"choices": []}}, "must be a list"),
    "a word like another": ({"optimizer.name": {"choice": ["adamw"]}}, "choices"),
    "two kinds": ({"optimizer.clip": {"log": [1, 2], "uniform": [1, 2]}}, "one of log, uniform"),
    "no table": ({"optimizer.name": "adamw"}, "must be a table"),
    "nothing": ({}, "must have an option"),
    "the length": ({"ticks": {"integers": [1, 9]}}, "the study decides how long"),
    "the seed": ({"seed": {"integers": [1, 9]}}, "--seeds"),
    "a condition on nothing": (
        {"optimizer.clip": {"uniform": [1, 2], "when": {"model.norm": ["rms"]}}},
        "must name an option that has choices",
    ),
    "a condition that never holds": (
        {
            "model.norm": {"choices": ["rms", "layer"]},
            "optimizer.clip": {"uniform": [1, 2], "when": {"model.norm": ["batch"]}},
        },
        "must have choices of model.norm",
    ),
    "a circle": (
        {
            "model.norm": {"choices": ["rms", "layer"], "when": {"model.mlp": ["gelu"]}},
            "model.mlp": {"choices": ["gelu", "swiglu"], "when": {"model.norm": ["rms"]}},
        },
        "a circle",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_space_is_refused(case: str) -> None:
    values, told = REFUSED[case]
    with pytest.raises(ConfigError) as found:
        space_from(values, Config)
    assert told in str(found.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"optimizer.learning-rate": {"uniform": [0.0, 1.0]}}, "learning_rate must be above 0"),
        ({"optimizer.name": {"choices": ["adam"]}}, "name must be"),
        ({"optimizer.name": {"choices": ["adamw", "ticks_adam"]}}, "ticks_adam cannot clip"),
        ({"model.layers": {"choices": ["two"]}}, "a whole number"),
    ],
)
def test_values_that_the_config_cannot_have_are_refused(values: Any, told: str) -> None:
    config = training_preset("quick")
    config = replace(config, optimizer=replace(config.optimizer, clip=1.0))
    with pytest.raises(ConfigError, match=told):
        space_from(values, Config).check(config)


def test_values_that_go_with_some_points_only_are_allowed() -> None:
    """Three heads do not divide the preset's width, but another one of the space."""
    values = {"model.heads": {"choices": [3, 4]}, "model.width": {"choices": [128, 192]}}
    space_from(values, Config).check(training_preset("quick"))
    with pytest.raises(ConfigError, match="heads must divide width"):
        space_from({"model.heads": {"choices": [3, 4]}}, Config).check(training_preset("quick"))
