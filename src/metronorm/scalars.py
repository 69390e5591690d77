"""What counts as a number in an argument: Python's own numbers and what behaves like them.

These are numbers of NumPy, Decimals, Fractions, and arrays or tensors of a single number. A bool is
not a number, and neither is text.
"""

from __future__ import annotations

from decimal import Decimal
from numbers import Integral, Real
from typing import Any


def as_integer(value: Any) -> int | None:
    """The value as an int; None: it is no integer. 2.0 is no integer.

    >>> import numpy as np
    >>> as_integer(np.int64(3)), as_integer(3.0), as_integer(True)
    (3, None, None)
    """
    number = _plain(value)
    return int(number) if isinstance(number, int | Integral) else None


def as_real(value: Any) -> float | None:
    """The value as a float; None: it is no real number.

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
    """The number in an array of a single number; None for a bool; any other value as it is."""
    # torch.compile must be able to trace what runs for Python's own numbers
    if not isinstance(value, int | float) and hasattr(value, "item"):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):  # several numbers, or not available yet
            return None
    return None if isinstance(value, bool) else value
