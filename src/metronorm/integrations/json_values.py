"""Values of other frameworks and trackers as JSON can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

_DEEPEST = 100


def as_json(value: Any, *, allow_nan: bool = True, depth: int = 0) -> Any:
    """Return a value with everything that JSON cannot hold as text, such as half a surrogate pair.

    Args:
        value: a value of any kind; NumPy's scalars become Python's.
        allow_nan: whether NaN and infinities stay floats; they become text otherwise.
        depth: the number of containers around the value; those deeper than 100 become text.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, float):
        return value if allow_nan or isfinite(value) else str(value)
    if value is None or isinstance(value, int):
        return value
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return str(value)
    if depth == _DEEPEST:
        return "(nested too deeply)"
    if isinstance(value, Mapping):
        return {
            as_json(str(key)): as_json(each, allow_nan=allow_nan, depth=depth + 1)
            for key, each in value.items()
        }
    return [as_json(each, allow_nan=allow_nan, depth=depth + 1) for each in value]
