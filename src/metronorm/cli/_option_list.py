"""The options of every command as a list, from the same dataclasses that tyro parses.

tyro can write completions too, but offers no file for an argument without an option's name.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import tyro

from metronorm.cli import COMMANDS, module_of
from metronorm.cli._tyro_fields import docstrings, own_first


class Option(NamedTuple):
    """An option of a command, or an argument without a name.

    Attributes:
        flags: its names, "--norm"; of a switch both, "--compile" and "--no-compile"; none: an
            argument without a name.
        help: the first sentence of its docstring.
        choices: all values that it can have; none: it has others.
        values: how many values follow it; None: any number.
        is_path: whether a value may be the path of a file or folder.
    """

    flags: tuple[str, ...]
    help: str
    choices: tuple[str, ...] = ()
    values: int | None = 1
    is_path: bool = False


def options_by_command() -> dict[str, list[Option]]:
    """The options of every command, those of `--help` apart; loads no framework."""
    found = {}
    for name in COMMANDS:
        module: Any = importlib.import_module(module_of(name))
        kind = module.options_kind() if hasattr(module, "options_kind") else module.Arguments
        found[name] = _options(kind)
    return found


def _options(kind: type, prefix: str = "") -> list[Option]:
    types, docs = get_type_hints(kind, include_extras=True), docstrings(kind)
    found: list[Option] = []
    for field in own_first(kind):
        hint = types[field.name]
        marks: tuple[Any, ...] = ()
        if get_origin(hint) is Annotated:
            hint, marks = hint.__origin__, hint.__metadata__
        if tyro.conf.Suppress in marks:
            continue
        given = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        name = given[0] if given else field.name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            found += _options(hint, f"{prefix}{name}." if name else prefix)  # type: ignore[arg-type]
        else:
            found.append(_option(f"{prefix}{name}", hint, marks, docs.get(field.name, "")))
    return found


def _option(name: str, hint: Any, marks: tuple[Any, ...], doc: str) -> Option:
    sentence = doc.partition(". ")[0]
    if hint is bool:
        folder, _, last = name.rpartition(".")
        flags = [f"--{name}"]
        if tyro.conf.FlagCreatePairsOff not in marks:
            flags.append(f"--{folder}.no-{last}" if folder else f"--no-{last}")
        return Option(tuple(flags), sentence, values=0)
    kinds = _kinds(hint)
    values: int | None = 1
    if get_origin(hint) is tuple and tyro.conf.UseAppendAction not in marks:
        values = None if Ellipsis in get_args(hint) else len(get_args(hint))
    return Option(
        () if tyro.conf.Positional in marks else (f"--{name}",),
        sentence,
        tuple(kind for kind in kinds if isinstance(kind, str)),
        values,
        Path in kinds or str in kinds,
    )


def _kinds(hint: Any) -> list[Any]:
    """The types that a value can have, and, as texts, the values of its literals."""
    if hint in (NoneType, Ellipsis):
        return []
    if get_origin(hint) is Literal:
        return [str(each) for each in get_args(hint)]
    if get_origin(hint) in (Union, UnionType, tuple):
        return [kind for each in get_args(hint) for kind in _kinds(each)]
    return [hint]
