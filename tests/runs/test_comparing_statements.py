import math
import re

import pytest

from metronorm.runs.comparing import Measure
from metronorm.runs.comparing.losses import LastValues
from metronorm.runs.comparing.statements import judge, statements
from metronorm.runs.directions import Direction

SLOWER = Measure(50e6, 51.6e6, 1.032, 1.019, 1.044)
FASTER = Measure(51.6e6, 50e6, 1 / 1.032, 1 / 1.044, 1 / 1.019)
SAME = Measure(50e6, 50.1e6, 1.002, 0.996, 1.008)


def test_the_first_sentence() -> None:
    def first(time: Measure) -> str:
        return statements({"tick_median_ns": time, "tick_mean_ns": time}, {})[0]

    assert first(SLOWER).startswith("B is 3.2% slower (1.9% to 4.4%); a median tick takes 50 ms")
    assert first(FASTER).startswith("B is 3.1% faster (1.86% to 4.21%); a median tick takes 51.6")
    assert first(SAME).startswith("no difference beyond the noise (-0.4% to 0.8%)")


def test_the_mean_is_mentioned_where_it_differs_from_the_median() -> None:
    for median, mean, sentences in (
        (SLOWER, SLOWER, 1),
        (SLOWER, SAME, 2),
        (SAME, SLOWER, 2),
        (FASTER, SLOWER, 2),
        (SAME, SAME, 1),
    ):
        found = statements({"tick_median_ns": median, "tick_mean_ns": mean}, {})
        assert len(found) == sentences


@pytest.mark.parametrize(
    ("limit", "failed", "words"),
    [
        (
            0.01,
            True,
            r"^too slow: B is 3.2% slower \(.*\); .* interval is above the limit of 1%$",
        ),
        (0.019, False, r"^perhaps too slow: .* above the limit of 1.9%, but .* begins below it$"),
        (0.04, False, r"^perhaps too slow: .* below the limit of 4%, but .* ends above it$"),
        (0.05, False, r"^not too slow: .* the whole interval is within the limit of 5%$"),
    ],
)
def test_the_verdict(limit: float, failed: bool, words: str) -> None:
    verdict = judge(SLOWER, limit)
    assert (verdict.limit, verdict.failed) == (limit, failed)
    assert re.search(words, verdict.words)


def test_a_measure_without_an_interval_does_not_differ() -> None:
    assert not Measure(1.0, 2.0, 2.0).differs
    assert Measure(0.0, 2.0, math.inf, math.inf, math.inf).differs
    assert not Measure(1.0, 1.0, 1.0, 1 + 1e-15, 1 + 1e-15).differs, "rounding"


@pytest.mark.parametrize(
    ("better", "b", "words"),
    [
        ("lower", 0.4, "B's score after 300 ticks is lower, which is better: 0.5 in A, 0.4 in B"),
        ("lower", 0.6, "B's score after 300 ticks is higher, which is worse: 0.5 in A, 0.6 in B"),
        ("higher", 0.6, "B's score after 300 ticks is higher, which is better: 0.5 in A, 0.6 in B"),
        ("higher", 0.4, "B's score after 300 ticks is lower, which is worse: 0.5 in A, 0.4 in B"),
        (None, 0.6, "B's score after 300 ticks is higher: 0.5 in A, 0.6 in B"),
    ],
)
def test_which_run_is_better(better: Direction | None, b: float, words: str) -> None:
    measures = {"tick_median_ns": SAME, "tick_mean_ns": SAME}
    for differs in (True, False):
        last = LastValues(300, 0.5, b, differs)
        (_, found) = statements(measures, {}, "score", last=last, better=better)
        if differs:
            assert found == words
        else:
            assert found.startswith("no difference of score beyond the noise after 300 ticks: 0.5")
