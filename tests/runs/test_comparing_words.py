import math
import re

import pytest

from metronorm.errors import ConfigError
from metronorm.runs.comparing import Measure, parse_percent
from metronorm.runs.comparing.words import judge, percent, statements

SLOWER = Measure(50e6, 51.6e6, 1.032, 1.019, 1.044)
FASTER = Measure(51.6e6, 50e6, 1 / 1.032, 1 / 1.044, 1 / 1.019)
SAME = Measure(50e6, 50.1e6, 1.002, 0.996, 1.008)


def test_what_the_figures_say() -> None:
    def first(time: Measure) -> str:
        return statements({"tick_median_ns": time, "tick_mean_ns": time}, {})[0]

    assert first(SLOWER).startswith("B is 3.2 % slower (1.9 % to 4.4 %); a median tick takes 50 ms")
    assert first(FASTER).startswith("B is 3.1 % faster (1.9 % to 4.2 %); a median tick takes 51.6")
    assert first(SAME).startswith("no difference beyond the noise (-0.4 % to 0.8 %)")


def test_the_mean_is_told_of_where_it_says_something_else() -> None:
    for median, mean, sentences in (
        (SLOWER, SLOWER, 1),
        (SLOWER, SAME, 2),
        (SAME, SLOWER, 2),
        (FASTER, SLOWER, 2),
        (SAME, SAME, 1),
    ):
        said = statements({"tick_median_ns": median, "tick_mean_ns": mean}, {})
        assert len(said) == sentences


@pytest.mark.parametrize(
    ("limit", "failed", "words"),
    [
        (0.01, True, r"^too slow: B is 3.2 % slower \(.*\), all of it above the limit of 1.0 %$"),
        (0.019, False, r"^not surely too slow: .* above the limit of 1.9 %, but .* begins below$"),
        (0.04, False, r"^not surely too slow: .* below the limit of 4.0 %, but .* ends above$"),
        (0.05, False, r"^not too slow: .* all of it within the limit of 5.0 %$"),
    ],
)
def test_a_verdict_says_which_it_was(limit: float, failed: bool, words: str) -> None:
    verdict = judge(SLOWER, limit)
    assert (verdict.limit, verdict.failed) == (limit, failed)
    assert re.search(words, verdict.words)


def test_percent() -> None:
    assert parse_percent("5%") == parse_percent(" 5 % ") == parse_percent("0.05") == 0.05
    assert parse_percent("0") == parse_percent("0%") == 0
    assert parse_percent("150%") == 1.5
    for text in ("", "%", "five", "5%%", "nan", "nan%", "inf%", "-1%", "1e999%"):
        with pytest.raises(ConfigError, match="must be a percentage of at least 0; got"):
            parse_percent(text)
    with pytest.raises(ConfigError, match=r"must say that it is in percent; got '5'; try: 5%"):
        parse_percent("5")
    assert [percent(share) for share in (0.0321, 0.0, -1e-12, 0.0004, 12.5, -0.0321)] == [
        "3.2 %", "0 %", "0 %", "0.04 %", "1250.0 %", "-3.2 %"
    ]  # fmt: skip


def test_a_measure_without_an_interval_does_not_differ() -> None:
    assert not Measure(1.0, 2.0, 2.0).differs
    assert Measure(0.0, 2.0, math.inf, math.inf, math.inf).differs
    assert not Measure(1.0, 1.0, 1.0, 1 + 1e-15, 1 + 1e-15).differs, "rounding"
