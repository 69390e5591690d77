"""The config of a run as JSON that loses nothing, and the differences between two configs.

JSON has no NaN and no infinities. `run.json` has them as text, and `not_finite` lists their places,
so that reading makes floats of them again:

    "config": {"clip": "inf", "name": "inf"}, "not_finite": [["clip"]]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.text import flat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Path = tuple[str | int, ...]  # the keys and indices on the way to a value


def to_json(value: Any, *, other: Callable[[Any], Any] | None = None) -> tuple[Any, list[Path]]:
    """Convert a value to plain JSON values, with text in place of floats that are not finite.

    Args:
        value: dictionaries and lists of any depth, and values in them.
        other: converts a value that JSON cannot hold; None: such a value is an error.

    Returns:
        The plain value, and the places of the replaced floats.

    Raises:
        TypeError, ValueError, RecursionError: the value holds something that JSON cannot hold.
    """
    places: list[Path] = []
    return _replace_non_finite(msgspec.to_builtins(value, enc_hook=other), (), places), places


def _replace_non_finite(value: Any, here: Path, places: list[Path]) -> Any:
    if isinstance(value, dict):
        return {
            key: _replace_non_finite(each, (*here, str(key)), places) for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _replace_non_finite(each, (*here, index), places) for index, each in enumerate(value)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        places.append(here)
        return str(value)
    return value


def from_json(value: Any, not_finite: Iterable[Iterable[str | int]]) -> Any:
    """Put the floats back at their places, in `value` itself, and return it.

    Args:
        value: the plain value that `to_json` returned.
        not_finite: the places that it returned; those that hold no such text are ignored.
    """
    for place in not_finite:
        *outer, last = place or [""]
        inner = value
        try:
            for key in outer:
                inner = inner[key]
            inner[last] = float(inner[last])
        except (LookupError, TypeError, ValueError):  # a person has edited the file
            continue
    return value


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """The values that differ between two configs: `[old, new]` by dotted name.

    A name that only `before` has is no difference: on resume, a script may give a part of the
    config. A name that only `after` has differs from None.

    Args:
        before: the config as `run.json` has it.
        after: the new config, or a part of it.

    Raises:
        TypeError, ValueError, RecursionError: `after` holds something that JSON cannot hold.
    """
    values, not_finite = to_json(after)
    as_read = from_json(msgspec.json.decode(msgspec.json.encode(values)), not_finite)
    old = flat(before)
    return {
        name: [old.get(name), value]
        for name, value in flat(as_read).items()
        # (compared as text, a NaN equals itself, and True does not equal 1)
        if name not in old or repr(old[name]) != repr(value)
    }
