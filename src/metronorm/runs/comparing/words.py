"""What a comparison comes to in words, and whether B is too slow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.text import short_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metronorm.runs.comparing.losses import Reached
    from metronorm.runs.comparing.times import Measure


@dataclass(frozen=True)
class Verdict:
    """Whether B's median tick is slower than A's by more than `limit`, with confidence.

    `failed` if the whole interval of the ratio lies above `1 + limit`; `words` say which it was.
    """

    limit: float
    failed: bool
    words: str


def parse_percent(text: str) -> float:
    """A share of 1 from "5%" or "0.05".

    Raises:
        ConfigError: no number, below 0, or not below 1 and without the sign for percent.
    """
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ConfigError("a limit must be a percentage of at least 0", got=repr(text), fix="5%")
    if value >= 1 and not text.strip().endswith("%"):
        raise ConfigError(
            "a limit of 1 or more must say that it is in percent", got=repr(text), fix=f"{number}%"
        )
    return value


def judge(tick: Measure, limit: float) -> Verdict:
    """Hold the ratio of the median tick times against a limit."""
    low, high = tick.low or 0.0, tick.high or math.inf
    most = f"the limit of {percent(limit)}"
    if low > 1 + limit:
        words = f"too slow: {_speed(tick)}, all of it above {most}"
    elif tick.ratio > 1 + limit:
        words = f"not surely too slow: {_speed(tick)}, above {most}, but its interval begins below"
    elif high > 1 + limit:
        words = f"not surely too slow: {_speed(tick)}, below {most}, but its interval ends above"
    else:
        words = f"not too slow: {_speed(tick)}, all of it within {most}"
    return Verdict(limit, low > 1 + limit, words)


def statements(
    measures: Mapping[str, Measure],
    phases: Mapping[str, Measure],
    metric: str | None = None,
    reached: Iterable[Reached] = (),
) -> list[str]:
    """What the figures say, a sentence each."""
    median, mean = measures["tick_median_ns"], measures["tick_mean_ns"]
    said = [f"{_speed(median)}; a median tick takes {_pair(median)}"]
    if _direction(mean) != _direction(median):
        said.append(f"the mean, which counts rare slow ticks: {_speed(mean)}; {_pair(mean)}")
    changed = {name: phase.b - phase.a for name, phase in phases.items() if phase.differs}
    if changed:
        name = max(changed, key=lambda name: abs(changed[name]))
        said.append(f"the phase that changed most is {name}: {_pair(phases[name])}")
    said += [
        f"{end.end_of}'s last {metric}, {end.loss:.4g}: reached by A {_when(end.a_seconds)}, by B "
        f"{_when(end.b_seconds)}"
        for end in reached
    ]
    return said


def percent(share: float) -> str:
    """A share of 1 in percent: "3.2 %"."""
    value = 100 * share
    if abs(value) < 1e-6:  # rounding
        return "0 %"
    return f"{value:.1f} %" if abs(value) >= 0.1 else f"{value:.1g} %"


def _direction(time: Measure) -> int:
    return 0 if not time.differs else 1 if time.ratio > 1 else -1


def _speed(time: Measure) -> str:
    if not time.differs or time.low is None or time.high is None:
        return f"no difference beyond the noise ({_range(time)})"
    if time.ratio > 1:
        ends = f"{percent(time.low - 1)} to {percent(time.high - 1)}"
        return f"B is {percent(time.ratio - 1)} slower ({ends})"
    ends = f"{percent(1 - time.high)} to {percent(1 - time.low)}"
    return f"B is {percent(1 - time.ratio)} faster ({ends})"


def _range(time: Measure) -> str:
    if time.low is None or time.high is None:
        return "no interval"
    return f"{percent(time.low - 1)} to {percent(time.high - 1)}"


def _when(after: float | None) -> str:
    return "never" if after is None else f"after {short_time(1e9 * after)}"


def _pair(time: Measure) -> str:
    return f"{short_time(time.a)} in A, {short_time(time.b)} in B"
