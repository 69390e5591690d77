"""The rule that stops trials, on losses whose end is known."""

import random
from statistics import NormalDist

from metronorm.tune.stopping import Ended, cannot_win, lowest_mean, made_up

TICKS = 200


def course(end: float, lag: float = 0.0, seed: int = 0) -> list[float]:
    """A falling loss with the noise of its windows; behind by `lag` until the last quarter."""
    windows, own = random.Random(0), random.Random(seed)
    return [
        end
        + 4 / (tick + 1)
        + (lag if tick < 3 * TICKS / 4 else lag * (TICKS - tick) / (TICKS / 4))
        + windows.gauss(0, 0.5)  # the same in all trials
        + own.gauss(0, 0.01)
        for tick in range(TICKS)
    ]


ENDED = [Ended(course(end, seed=n), end) for n, end in enumerate((2.0, 2.02, 2.05, 2.1, 2.2, 2.4))]


def test_a_trial_far_behind_is_stopped_and_one_that_is_not_goes_on() -> None:
    half = TICKS // 2
    assert cannot_win(course(3.0, seed=9)[:half], ENDED, ticks=TICKS)
    assert not cannot_win(course(2.0, seed=9)[:half], ENDED, ticks=TICKS)
    assert not cannot_win(course(1.9, seed=9)[:half], ENDED, ticks=TICKS)


def test_it_is_compared_with_the_last_that_goes_on() -> None:
    behind = course(2.15, seed=9)[: TICKS // 2]
    assert cannot_win(behind, ENDED, ticks=TICKS, going_on=1)
    assert not cannot_win(behind, ENDED, ticks=TICKS, going_on=5)


def test_what_others_have_made_up_protects_a_trial() -> None:
    """One that was far behind has won: a lag as large says nothing any more."""
    late = Ended(course(1.95, lag=1.0, seed=8), 1.95)
    behind = course(2.9, seed=9)[: TICKS // 2]
    assert cannot_win(behind, ENDED, ticks=TICKS)
    assert not cannot_win(behind, [*ENDED, late], ticks=TICKS)
    most = made_up([*ENDED, late], TICKS // 2, 25)
    assert 0.9 < most < 1.1


def test_few_trials_or_ticks_decide_nothing() -> None:
    far = course(9.0)
    assert not cannot_win(far[:100], ENDED[:5], ticks=TICKS)
    assert not cannot_win(far[:10], ENDED, ticks=TICKS)
    assert not cannot_win([*far[:99], float("nan")], ENDED, ticks=TICKS)


def test_the_lower_end_of_a_mean_is_that_of_a_normal_distribution() -> None:
    chance = random.Random(1)
    series = [chance.gauss(1.0, 0.5) for _ in range(400)]
    mean = sum(series) / 400
    exact = mean + NormalDist().inv_cdf(0.025) * 0.5 / 20
    assert abs(lowest_mean(series) - exact) < 0.02
