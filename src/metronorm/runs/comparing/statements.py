"""The sentences about a comparison, and the verdict whether B is too slow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.text import percent, short_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metronorm.runs.comparing.losses import LastValues, Reached
    from metronorm.runs.comparing.times import Measure
    from metronorm.runs.directions import Direction


@dataclass(frozen=True)
class Verdict:
    """Whether B's median tick is slower than A's by more than `limit` (a share of 1).

    `failed` is True if the whole interval of the ratio lies above `1 + limit`; `words` is a
    sentence about it.
    """

    limit: float
    failed: bool
    words: str


def judge(tick: Measure, limit: float) -> Verdict:
    """Compare the ratio of the median ticks with a limit (a share of 1)."""
    low, high = tick.low or 0.0, tick.high or math.inf
    most = f"the limit of {percent(limit)}"
    if low > 1 + limit:
        words = f"too slow: {_speed(tick)}; the whole interval is above {most}"
    elif tick.ratio > 1 + limit:
        words = f"perhaps too slow: {_speed(tick)}; above {most}, but the interval begins below it"
    elif high > 1 + limit:
        words = f"perhaps too slow: {_speed(tick)}; below {most}, but the interval ends above it"
    else:
        words = f"not too slow: {_speed(tick)}; the whole interval is within {most}"
    return Verdict(limit, low > 1 + limit, words)


def statements(
    measures: Mapping[str, Measure],
    phases: Mapping[str, Measure],
    metric: str | None = None,
    reached: Iterable[Reached] = (),
    *,
    last: LastValues | None = None,
    better: Direction | None = None,
) -> list[str]:
    """Describe the figures, one sentence each.

    Args:
        measures: at least `tick_median_ns` and `tick_mean_ns`.
        phases: the mean time of each phase per tick, ns.
        metric: the name of the metric that `reached` and `last` are about.
        reached: when each run reached the final losses.
        last: the metric of both runs after equal ticks; None: there is none.
        better: whether a lower or a higher value of the metric is better; None: not known.
    """
    median, mean = measures["tick_median_ns"], measures["tick_mean_ns"]
    found = [f"{_speed(median)}; a median tick takes {_pair(median)}"]
    if _direction(mean) != _direction(median):
        found.append(f"by the mean, which includes rare slow ticks, {_speed(mean)}; {_pair(mean)}")
    changed = {name: phase.b - phase.a for name, phase in phases.items() if phase.differs}
    if changed:
        name = max(changed, key=lambda name: abs(changed[name]))
        found.append(f"the phase {name} changed most: {_pair(phases[name])}")
    if metric is not None and last is not None:
        found.append(_comparison(metric, last, better))
    found += [
        f"{end.end_of}'s last {metric}, {end.loss:.4g}: reached by A {_when(end.a_seconds)}, by B "
        f"{_when(end.b_seconds)}"
        for end in reached
    ]
    return found


def _comparison(metric: str, last: LastValues, better: Direction | None) -> str:
    after, pair = f"after {last.ticks:,.0f} ticks", f"{last.a:.4g} in A, {last.b:.4g} in B"
    if not last.differs:
        return f"no difference of {metric} beyond the noise {after}: {pair}"
    direction = "higher" if last.b > last.a else "lower"
    if better is not None:
        direction += f", which is {'better' if direction == better else 'worse'}"
    return f"B's {metric} {after} is {direction}: {pair}"


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
