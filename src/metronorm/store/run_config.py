"""A run's config as JSON that loses nothing, and what differs between two of them.

JSON has no NaN and no infinities. They stand in `run.json` as text, and `not_finite` says where, so
that they are floats again when they are read:

    "config": {"clip": "inf", "name": "inf"}, "not_finite": [["clip"]]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Path = tuple[str | int, ...]  # the keys and indices on the way to a value


def to_json(value: Any, *, other: Callable[[Any], Any] | None = None) -> tuple[Any, list[Path]]:
    """Plain JSON values, floats that are not finite as text; and where those are.

    Args:
        value: dictionaries, lists and what stands in them.
        other: makes a plain value of what JSON cannot hold; None: that is an error.

    Raises:
        TypeError, ValueError, RecursionError: there is what JSON cannot hold.
    """
    found: list[Path] = []
    return _spell_out(msgspec.to_builtins(value, enc_hook=other), (), found), found


def _spell_out(value: Any, here: Path, found: list[Path]) -> Any:
    if isinstance(value, dict):
        return {key: _spell_out(each, (*here, str(key)), found) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_spell_out(each, (*here, index), found) for index, each in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        found.append(here)
        return str(value)
    return value


def from_json(value: Any, not_finite: Iterable[Iterable[str | int]]) -> Any:
    """The values that `to_json` was given; places that hold no such text are passed over."""
    for place in not_finite:
        *way, last = place or [""]
        inner = value
        try:
            for key in way:
                inner = inner[key]
            inner[last] = float(inner[last])
        except (LookupError, TypeError, ValueError):  # somebody has edited the file
            continue
    return value


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    """What `after` says otherwise than `before`, by dotted names: the two values of each.

    What `after` does not mention does not differ: on resume a part may be given.

    Raises:
        TypeError, ValueError, RecursionError: there is what JSON cannot hold.
    """
    values, not_finite = to_json(after)
    as_read = from_json(msgspec.json.decode(msgspec.json.encode(values)), not_finite)
    old = _flat(before)
    return {
        name: [old.get(name), value]
        for name, value in _flat(as_read).items()
        # (as text, a NaN is itself, and True is not 1)
        if name not in old or repr(old[name]) != repr(value)
    }


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value} if name else {}
    found: dict[str, Any] = {}
    for key, each in value.items():
        found |= _flat(each, f"{name}.{key}" if name else key)
    return found
