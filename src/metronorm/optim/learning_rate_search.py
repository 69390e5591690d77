"""The losses that a search for a learning rate found, and the suggestion that follows."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects

TIMES_THE_BEST = 4  # the usual choice
TIMES_THE_NOISE = 5  # of losses that only fluctuate, 3 in 100 seem to fall by more


@dataclass(frozen=True)
class LearningRateSearch:
    """The result of `find_learning_rate`. Learning rates are those of the first parameter group.

    Attributes:
        learning_rates: one per tick that was run.
        losses: the loss of each tick before its step, per token (or whatever the windows count).
        smoothed: debiased exponential moving averages of the losses.
        suggestion: the learning rate to begin with; None if the loss never fell.
        steepest: the learning rate where the smoothed loss falls fastest against log(lr); None if
            it never fell.
        minimum: the learning rate where the smoothed loss is lowest.
        diverged_at: the learning rate from which the loss only rose, until the search stopped; None
            if it did not.
        reasons: why this suggestion, and what to watch out for, in plain sentences.
    """

    learning_rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    steepest: float | None
    minimum: float
    diverged_at: float | None
    reasons: tuple[str, ...]

    def figure(self) -> plotly.graph_objects.Figure:
        """A Plotly figure of the loss against the learning rate, with the attributes marked.

        Raises:
            MissingDependencyError: plotly is not installed.
        """
        try:
            import plotly.graph_objects as go  # here, because searching does without it
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "a figure needs the package 'plotly'",
                got="no such package",
                fix="pip install 'metronorm[analysis]'",
            ) from error
        rates = self.learning_rates
        figure = go.Figure(
            [
                go.Scatter(x=rates, y=self.losses, name="loss", opacity=0.4),
                go.Scatter(x=rates, y=self.smoothed, name="smoothed"),
            ]
        )
        for name in ("suggestion", "steepest", "minimum", "diverged_at"):
            rate = getattr(self, name)
            if rate is not None:
                nearest = min(range(len(rates)), key=lambda i: abs(math.log(rates[i] / rate)))
                label = f"{name.replace('_', ' ')}: {rate:.1e}"
                x, y = [rate], [self.smoothed[nearest]]
                figure.add_scatter(x=x, y=y, name=label, mode="markers", marker_size=10)
        # losses far above the first one would press the others flat
        low, high = min(self.losses), min(max(self.losses), 2 * self.losses[0] - min(self.losses))
        pad = 0.05 * (high - low) or 1.0
        figure.update_layout(title="Learning rate range test", template="plotly_white")
        figure.update_xaxes(title="learning rate (per tick)", type="log", exponentformat="e")
        figure.update_yaxes(title="loss (per token)", range=[low - pad, high + pad])
        return figure


def diverged(smoothed: Sequence[float]) -> bool:
    """Whether the last smoothed loss is above the first one, and above four times the best one.

    For a negative loss, the distance to the best one is what it would be for a positive loss.
    """
    best = min(smoothed)
    return smoothed[-1] > max(smoothed[0], best + (TIMES_THE_BEST - 1) * abs(best))


def suggest(
    rates: Sequence[float],
    losses: list[float],
    *,
    smoothed: list[float],
    stopped: bool,
    horizon: float,
) -> LearningRateSearch:
    """Find a learning rate from the losses of a search.

    Args:
        rates: all learning rates of the plan.
        losses: of the rates that were tried: the first ones, perhaps all.
        smoothed: the moving averages of these losses.
        stopped: whether the search ended because the loss diverged.
        horizon: how many ticks the averages reach back.
    """
    tried = list(rates[: len(losses)])
    # the average lags behind the loss, so the earlier of both rises is where divergence begins
    last = min(_rise(losses), _rise(smoothed)) if stopped else len(tried) - 1
    lowest = min(range(last + 1), key=smoothed.__getitem__)
    early = min(round(horizon), len(tried) // 4)  # the average of a few losses is not smooth
    level = statistics.fmean(losses[: early + 1])
    noise = statistics.median(abs(b - a) for a, b in itertools.pairwise(losses)) if last else 0.0
    noise /= math.sqrt(2 * horizon - 1)  # the noise that is left after it
    fallen = [
        tick
        for tick in range(early + 1, lowest + 1)
        if level - smoothed[tick] > TIMES_THE_NOISE * noise
    ]
    reasons: list[str] = []
    suggestion = steepest = None
    if lowest <= early:
        reasons.append(f"the loss is lowest at {tried[lowest]:.1e}, among the first tried")
    elif not fallen:
        fall = level - smoothed[lowest]
        reasons.append(f"the loss never fell: by {fall:.1e}, and {noise:.1e} is its noise")
    else:
        reach = round(horizon)  # ticks to each side; with fewer, noise would be steepest
        slopes = {}
        for tick in fallen:
            a, b = max(tick - reach, 0), min(tick + reach, last)
            slopes[tick] = (smoothed[b] - smoothed[a]) / (b - a)
        steepest = tried[min(slopes, key=slopes.__getitem__)]
        # The steepest rate is too large where the loss falls suddenly; a tenth of the minimum is
        # too large where the loss is flat. The smaller of the two is at worst too careful.
        suggestion = min(steepest, tried[lowest] / 10)
        reasons += [
            f"the loss falls fastest at {steepest:.1e}",
            f"it is lowest at {tried[lowest]:.1e}; a tenth of that is {tried[lowest] / 10:.1e}",
            f"the suggestion is the smaller of the two: {suggestion:.1e}",
        ]
    diverged_at = tried[last] if stopped else None
    if diverged_at is not None:
        reasons.append(f"it diverges from {diverged_at:.1e} on")
    elif len(tried) < len(rates):
        reasons.append(
            f"the windows ran out after {len(tried)} of {len(rates)} ticks, at {tried[-1]:.1e}"
        )
    if diverged_at is None and suggestion is not None and lowest >= last - early:
        reasons.append(f"it was still falling at {tried[-1]:.1e}: higher rates may be better")
    return LearningRateSearch(
        tried, losses, smoothed, suggestion, steepest, tried[lowest], diverged_at, tuple(reasons)
    )


def _rise(values: Sequence[float]) -> int:
    """The index where the rise begins that lasts to the end."""
    first = len(values) - 1
    while first and values[first - 1] < values[first]:
        first -= 1
    return first
