import ast
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metronorm
from metronorm.scalars import as_integer, as_real, is_integer, is_number

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
def test_bools_texts_and_several_numbers_are_no_number(value: Any) -> None:
    assert as_integer(value) is None
    assert as_real(value) is None
    assert not is_integer(value)
    assert not is_number(value)


def test_a_whole_float_is_no_integer_and_a_number_beyond_floats_is_not_real() -> None:
    assert as_integer(3.0) is None
    assert as_integer(10**400) == 10**400
    assert as_real(10**400) is None


@pytest.mark.parametrize("value", [*INTEGERS[1:], *REALS], ids=repr)
def test_in_a_file_only_pythons_own_numbers_count(value: Any) -> None:
    assert not is_integer(value)
    assert is_number(value) == isinstance(value, float)


def test_pythons_own_numbers() -> None:
    assert is_integer(3)
    assert is_number(3)
    assert is_number(0.5)
    assert not is_integer(3.0)


# Files that ask for a bool themselves, and why. Checks of numbers belong in scalars.py.
ASK_FOR_BOOLS = {
    "board/query.py": "a search has true and false in small letters",
    "doctor/report.py": "true and false are yes and no in a report",
    "integrations/axes.py": "a step or time can have any type that int() or isfinite() takes",
    "models/config.py": "a choice among integers must not be True, which equals 1",
}


def asks_for_bool(path: Path) -> bool:
    """Whether a file calls isinstance() with bool, alone or among other types."""
    return any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "isinstance"
        and any(isinstance(each, ast.Name) and each.id == "bool" for each in ast.walk(node.args[1]))
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_numbers_are_checked_in_one_module() -> None:
    source = Path(metronorm.__file__).parent
    found = {
        path.relative_to(source).as_posix() for path in source.rglob("*.py") if asks_for_bool(path)
    }
    assert found == {"scalars.py", *ASK_FOR_BOOLS}
