"""The TOML file of a space.

    [optimizer.learning-rate]
    log = [1e-4, 1e-1]             # log-uniform
    [optimizer.weight-decay]
    uniform = [0.0, 0.3]
    [model.layers]
    integers = [2, 8]              # with both ends; step = 2 for every second one
    [optimizer.name]
    choices = ["adamw", "ticks_muon"]
    [optimizer.matrix-learning-rate]
    log = [1e-3, 1e-1]
    when = { "optimizer.name" = ["ticks_muon"] }
    [shape]                        # no option: choices of several options together
    choices = [
        { "model.layers" = 2, "model.width" = 192 },
        { "model.layers" = 4, "model.width" = 128 },
    ]

Names are those of the command line.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from metronorm.errors import ConfigError
from metronorm.scalars import is_integer, is_number
from metronorm.text import nearest
from metronorm.train.config_changes import read_toml
from metronorm.tune.options import NOT_SEARCHED, known_name, options_of
from metronorm.tune.space import Dimension, Space

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

KINDS = ("log", "uniform", "integers", "choices")
_WORDS = {*KINDS, "when", "step"}


def read_space(path: Path, kind: type) -> Space:
    """The space in a TOML file, over the options of a config of this kind.

    Raises:
        ConfigError: no such file, or no space of such options.
    """
    return space_from(read_toml(path), kind, str(path))


def space_from(values: Mapping[str, Any], kind: type, source: str = "the space") -> Space:
    """The space that plain values, as in a TOML file, stand for.

    Raises:
        ConfigError: they stand for none over the options of `kind`.
    """
    known = options_of(kind)
    tables = dict(_tables(values, "", source))
    return Space([_dimension(name, each, known, source) for name, each in tables.items()], source)


def space_from_plain(values: Mapping[str, Any]) -> Space:
    """The space that `Space.as_dict` made these values of; its options are not looked up."""
    found = []
    for name, table in values.items():
        kind = next(kind for kind in KINDS if kind in table)
        found.append(
            Dimension(name, kind, table[kind], table.get("step", 1), table.get("when", {}))
        )
    return Space(found)


def _tables(values: Mapping[str, Any], prefix: str, source: str) -> Iterable[tuple[str, Any]]:
    """The tables of options, whether their names are quoted or nested."""
    for name, value in values.items():
        whole = f"{prefix}{name}"
        if not isinstance(value, dict) or not value:
            raise ConfigError(
                f"in {source}, {whole} must be a table with one of {', '.join(KINDS)}",
                got=repr(value),
                fix=f"{whole} = {{ choices = [{json.dumps(value, default=str)}] }}",
            )
        if value.keys() & set(KINDS) or not all(isinstance(one, dict) for one in value.values()):
            yield whole, value
        else:
            yield from _tables(value, f"{whole}.", source)


def _dimension(name: str, table: Mapping[str, Any], known: Any, source: str) -> Dimension:
    kinds = [kind for kind in KINDS if kind in table]
    strange = [word for word in table if word not in _WORDS]
    if len(kinds) != 1 or strange:
        near = nearest(strange[0], _WORDS) if strange else None
        raise ConfigError(
            f"in {source}, {name} must have one of {', '.join(KINDS)}",
            got=", ".join(strange or kinds) or "none",
            fix=near,
        )
    kind, values = kinds[0], table[kinds[0]]
    if not isinstance(values, list) or not values:
        raise ConfigError(f"in {source}, {kind} of {name} must be a list", got=repr(values))
    group = kind == "choices" and all(isinstance(each, dict) and each for each in values)
    if group:
        values = [
            {_option(one, known, source): value for one, value in each.items()} for each in values
        ]
    else:
        name = _option(name, known, source)
    when = {
        other.replace("_", "-"): each if isinstance(each, list) else [each]
        for other, each in dict(table.get("when", {})).items()
    }
    step = table.get("step", 1)
    if kind != "choices":
        _check_range(name, kind, values, source)
    if not is_integer(step) or step < 1:
        raise ConfigError(f"in {source}, step of {name} must be at least 1", got=repr(step))
    return Dimension(name, kind, values, step, when)


def _option(name: str, known: Any, source: str) -> str:
    found = known_name(name, known, source)
    if found in NOT_SEARCHED:
        raise ConfigError(
            f"{source} must have options that change what is learned",
            got=found,
            fix=NOT_SEARCHED[found],
        )
    return found


def _check_range(name: str, kind: str, values: list[Any], source: str) -> None:
    whole = kind == "integers"
    good = len(values) == 2 and all(is_integer(v) if whole else is_number(v) for v in values)
    if not good or not all(map(math.isfinite, values)):
        what = "whole numbers" if whole else "numbers"
        raise ConfigError(
            f"in {source}, {kind} of {name} must be two {what}", got=json.dumps(values, default=str)
        )
    if not values[0] < values[1]:
        raise ConfigError(
            f"in {source}, {kind} of {name} must be a range that is not empty",
            got=f"{values[0]:g} to {values[1]:g}",
            fix=f"{min(values):g} to {max(values):g}" if values[0] > values[1] else None,
        )
    if kind == "log" and values[0] <= 0:
        raise ConfigError(
            f"in {source}, log of {name} must begin above 0", got=f"{values[0]:g}", fix="uniform"
        )
