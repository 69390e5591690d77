"""Where events stand on the axes of the charts."""

from pathlib import Path

import pytest

from metronorm.board.series import RunSeries
from metronorm.board.series.moments import Moment
from metronorm.errors import ConfigError

from ...store.stores import line, new_run, write_tape

SECOND = 10**9
BEGIN = 10**18  # of the first tick; each takes two seconds, and the resume comes after a minute
ENDS = {
    0: {tick: BEGIN + 2 * tick * SECOND for tick in range(1, 10)},
    1: {tick: BEGIN + (60 + 2 * tick) * SECOND for tick in range(7, 13)},
}
EVENTS = [
    Moment(0, 0, BEGIN),  # before the first tick
    Moment(0, 4, ENDS[0][4]),
    Moment(0, 8, ENDS[0][8]),  # in a tick that was left behind
    Moment(1, 0, ENDS[1][7] - 3 * SECOND),  # the resume
    Moment(1, 8, ENDS[1][8]),
    Moment(1, 12, ENDS[1][12] + SECOND),  # after the last tick
]


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("tick", [None, 4, 8, 6, 8, 12]),
        ("tokens", [None, 40, 86, 60, 80, 120]),
        ("training", [None, 8e9, 16e9, 12e9, 16e9, 24e9]),
        ("elapsed", [0, 8e9, 16e9, 71e9, 76e9, 85e9]),
        ("time", [moment.time_ns / 1e6 for moment in EVENTS]),
    ],
)
def test_events_stand_on_every_axis(
    tmp_path: Path, shared: Path, axis: str, expected: list[float | None]
) -> None:
    run = new_run(tmp_path)
    for attempt, ends in ENDS.items():
        ticks = [
            # what is left behind has counted more
            line(
                tick,
                {"tokens": 13.0 if attempt == 0 and tick > 6 else 10.0},
                time_ns=end,
                wall_ns=2 * SECOND,
            )
            for tick, end in ends.items()
        ]
        write_tape(run, ticks, attempt=attempt)
    assert RunSeries(run).places(EVENTS, axis) == expected  # type: ignore[arg-type]


def test_a_run_without_ticks_has_no_place_for_events(tmp_path: Path, shared: Path) -> None:
    series = RunSeries(new_run(tmp_path))
    assert series.places([Moment(0, 0, 5)], "tick") == [None]
    assert series.places([Moment(0, 3, 5)], "training") == [None]
    with pytest.raises(ConfigError, match="needs a metric that counts"):
        series.places([Moment(0, 3, 5)], "tokens")
