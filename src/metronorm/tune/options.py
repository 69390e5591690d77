"""The options of a config by their names on the command line, and a config with other values."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_origin, get_type_hints

import tyro

from metronorm.errors import ConfigError
from metronorm.text import nearest
from metronorm.train.config import TrainConfig
from metronorm.train.config_changes import config_from_dict, config_to_dict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Config = TypeVar("Config", bound=TrainConfig)

# What decides how long a trial is, which one it is, or nothing that it learns.
NOT_SEARCHED = {
    "ticks": "the study decides how long a trial is",
    "minutes": "the study decides how long a trial is",
    "seed": "--seeds repeats the best with other seeds",
    "recipe": "a study is of one task",
    "best": "all trials have the same measure",
    "best-mode": "all trials have the same measure",
}


class Option(NamedTuple):
    """An option of a config.

    Attributes:
        name: on the command line, without its dashes: "optimizer.learning-rate".
        path: the names of the fields that lead to it.
    """

    name: str
    path: tuple[str, ...]


def options_of(kind: type) -> dict[str, Option]:
    """The options of a dataclass and of those inside it, by name."""
    return {option.name: option for option in _options(kind, "", ())}


def _options(kind: type, prefix: str, path: tuple[str, ...]) -> Iterator[Option]:
    hints, plain = get_type_hints(kind, include_extras=True), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        marks = hints[field.name].__metadata__ if _is_annotated(hints[field.name]) else ()
        if tyro.conf.Suppress in marks or any("Suppress" in str(mark) for mark in marks):
            continue
        inner = plain[field.name]
        nameless = any(getattr(mark, "name", None) == "" for mark in marks)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            below = prefix if nameless else f"{name}."
            yield from _options(inner, below, (*path, field.name))
        else:
            yield Option(name, (*path, field.name))


def _is_annotated(hint: Any) -> bool:
    return get_origin(hint) is Annotated


def known_name(name: str, known: Iterable[str], what: str) -> str:
    """The name of an option as it is on the command line, from how a file has it.

    Raises:
        ConfigError: there is no such option; with near ones.
    """
    known = list(known)
    found = name.replace("_", "-").lstrip("-")
    if found in known:
        return found
    raise ConfigError(
        f"{what} must name options of the task", got=repr(name), fix=_near(found, known)
    )


def _near(name: str, known: list[str]) -> str:
    import difflib  # needed after a mistake only

    last = name.rpartition(".")[2]
    near = [*filter(None, [nearest(name, known)])]
    near += difflib.get_close_matches(name, known, n=3)
    near += [each for each in known if each.rpartition(".")[2] == last]
    by_last = {each.rpartition(".")[2]: each for each in known}
    near += [by_last[each] for each in difflib.get_close_matches(last, by_last, n=2)]
    return " or ".join([*dict.fromkeys(near)][:4]) or "metronorm train --help, which lists them"


def value_of(config: Any, option: Option) -> Any:
    """The value that a config has of an option."""
    for name in option.path:
        config = getattr(config, name)
    return config


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of the options of these names.

    Raises:
        ConfigError: values that the config cannot have, or not together.
    """
    options, plain = options_of(type(config)), config_to_dict(config)
    for name, value in values.items():
        place = plain
        *before, last = options[name].path
        for each in before:
            place = place[each]
        place[last] = list(value) if isinstance(value, tuple) else value
    try:
        return config_from_dict(plain, type(config))
    except ConfigError as error:
        must = error.must.removeprefix("in the run's config, ")
        raise ConfigError(must, got=error.got, fix=error.fix) from None
