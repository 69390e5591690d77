from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.scalars import as_integer, as_real

INTEGERS: list[Any] = [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)]
REALS: list[Any] = [
    *(0.5, np.float32(0.5), np.float16(0.5), np.float64(0.5), Decimal("0.5"), Fraction(1, 2)),
    *(np.array(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.bfloat16)),
]
NEITHER: list[Any] = [
    *(True, np.True_, torch.tensor(True), "3", b"3", None, 3j, np.complex64(3), [3], (3,)),
    *(np.array([3, 3]), torch.ones(2), torch.ones((), device="meta"), Path()),
]


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_what_behaves_as_an_integer_is_one(value: Any) -> None:
    assert type(as_integer(value)) is int
    assert as_integer(value) == 3
    assert type(as_real(value)) is float
    assert as_real(value) == 3.0


@pytest.mark.parametrize("value", REALS, ids=repr)
def test_what_behaves_as_a_real_number_is_one(value: Any) -> None:
    assert type(as_real(value)) is float
    assert as_real(value) == 0.5
    assert as_integer(value) is None


@pytest.mark.parametrize("value", NEITHER, ids=repr)
def test_bools_texts_and_several_numbers_are_none(value: Any) -> None:
    assert as_integer(value) is None
    assert as_real(value) is None


def test_a_whole_float_is_no_integer_and_what_no_float_can_hold_no_real() -> None:
    assert as_integer(3.0) is None
    assert as_integer(10**400) == 10**400
    assert as_real(10**400) is None
