"""The checks of numbers: what counts as an integer or a real number.

- In an *argument*, Python's numbers count, and so does everything that behaves like a number: a
  NumPy scalar, a Decimal or Fraction, an array or tensor with one element. `as_integer` and
  `as_real` convert them to Python's numbers.
- In a *file* or a *configuration*, only Python's own numbers count: see `is_integer` and
  `is_number`.

A bool is never a number, and neither is a text.
"""

from __future__ import annotations

from decimal import Decimal
from numbers import Integral, Real
from typing import Any, TypeGuard


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is a Python int.

    >>> is_integer(3), is_integer(3.0), is_integer(True)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a Python int or float; infinities and NaN are floats too.

    >>> is_number(3), is_number(3.5), is_number("3"), is_number(True)
    (True, True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_integer(value: Any) -> int | None:
    """The value as an int, or None if it is no integer. 2.0 is no integer.

    >>> import numpy as np
    >>> as_integer(np.int64(3)), as_integer(3.0), as_integer(True)
    (3, None, None)
    """
    number = _plain(value)
    return int(number) if isinstance(number, int | Integral) else None


def as_real(value: Any) -> float | None:
    """The value as a float, or None if it is no real number or is too large for a float.

    >>> import numpy as np
    >>> as_real(np.float32(0.5)), as_real(2), as_real("0.5")
    (0.5, 2.0, None)
    """
    number = _plain(value)
    if not isinstance(number, int | float | Real | Decimal):
        return None
    try:
        return float(number)
    except (OverflowError, ValueError):  # 10**400; a signalling NaN
        return None


def _plain(value: Any) -> Any:
    """The element of an array or tensor that has one; None for a bool; else the value itself."""
    # for Python's own numbers this must be so plain that torch.compile can trace it
    if not isinstance(value, int | float) and hasattr(value, "item"):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):  # several elements, or none yet (meta)
            return None
    return None if isinstance(value, bool) else value
