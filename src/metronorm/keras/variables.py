"""Keras' variables, and what the backend keeps behind them."""

from __future__ import annotations

from typing import Any

import keras


def native(variable: Any) -> Any:
    """Return the backend's own variable or tensor behind a `keras.Variable`.

    Anything else is returned as it is: TensorFlow hands its own variables to optimizers.
    """
    return variable.value if isinstance(variable, keras.Variable) else variable


def slot_dtype(variable: Any) -> str:
    """Return the dtype of a variable's accumulated gradient.

    It is float32 for variables of half precision or less, else the variable's own dtype.
    """
    dtype: str = keras.backend.standardize_dtype(variable.dtype)
    return "float32" if dtype in ("float16", "bfloat16") or "float8" in dtype else dtype
