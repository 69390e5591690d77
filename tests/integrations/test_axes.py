from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metronorm.errors import ConfigError
from metronorm.integrations.axes import LAST, Times, require_step, step_of, time_of

MOMENT = 1_735_689_600_123_456_789


@pytest.mark.parametrize(
    ("value", "ns", "unit"),
    [
        (0, 0, "seconds"),
        (1.5, 1_500_000_000, "seconds"),
        (1_735_689_600, MOMENT - 123_456_789, "seconds"),
        (9_223_372_035, 9_223_372_035 * 10**9, "seconds"),
        (1_735_689_600_123, MOMENT - 456_789, "milliseconds"),
        (1_735_689_600_123.0, MOMENT - 456_789, "milliseconds"),
        (1_735_689_600_123_456, MOMENT - 789, "microseconds"),
        (MOMENT, MOMENT, "nanoseconds"),
        (Decimal("1735689600.123456789"), MOMENT, "seconds"),
        (datetime(2025, 1, 1), MOMENT - 123_456_789, "dates"),
        ("2025-01-01 01:00:00.123456+01:00", MOMENT - 789, "dates"),
        ("2025-01-01T00:00:00.123Z", MOMENT - 456_789, "dates"),
    ],
)
def test_the_size_of_a_time_shows_its_unit(value: Any, ns: int, unit: str) -> None:
    assert time_of(value) == (ns, unit)


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), float("inf"), float("-inf"), -1, 1e10, 9.3e18, 10**400, Decimal("sNaN")),
        *("yesterday", "", True, None, [1], {"a": 1}, datetime(1969, 1, 1), datetime(2300, 1, 1)),
    ],
)
def test_values_that_are_not_times(value: Any) -> None:
    assert time_of(value) is None


@given(st.datetimes(datetime(1974, 1, 1), datetime(2262, 1, 1), timezones=st.just(UTC)))
def test_all_units_give_the_same_moment(moment: datetime) -> None:
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    for value in (moment, moment.isoformat(), microseconds, microseconds * 1000):
        assert time_of(value) is not None
        assert time_of(value)[0] == microseconds * 1000  # type: ignore[index]
    whole = microseconds // 10**6
    for value in (whole, whole * 1000):
        assert time_of(value) == (whole * 10**9, "seconds" if value == whole else "milliseconds")


def test_notices_about_times() -> None:
    times = Times()
    assert [times.read(value) for value in (5, 1e12, "x", 1e10)] == [5 * 10**9, 10**18, None, None]
    assert times.notices() == [
        "times read as milliseconds since 1970, because of their size: 1",
        "times left out that are not between 1970 and 2262: 2, such as 'x'; those values have the "
        "time of the value before",
    ]


@pytest.mark.parametrize(
    ("value", "step"),
    [
        *((3, 3), (-1, -1), (2.0, 2), (Decimal(7), 7), (LAST, LAST), (-(2**63), -(2**63))),
        *((2**63, None), (1.5, None), (float("nan"), None), (float("inf"), None), (True, None)),
        *(("3", None), (None, None), ([1], None), (Decimal("sNaN"), None)),
    ],
)
def test_values_that_are_steps(value: Any, step: int | None) -> None:
    assert step_of(value) == step


def test_a_step_of_a_training_may_be_a_tensor() -> None:
    assert [require_step(value) for value in (3, torch.tensor(4), 5.5)] == [3, 4, 5]


@pytest.mark.parametrize("value", [2**63, -(2**63), float("nan"), "last", [1], torch.zeros(2)])
def test_a_step_that_no_record_holds_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="an integer of 64 bits"):
        require_step(value)
