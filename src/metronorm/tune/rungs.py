"""What a study tries next: short runs with their whole schedule first, longer ones of what won.

Rankings flip while the learning rate decays. So a trial is never judged halfway down its schedule
against one that has come to the end of its own: every rung has runs of one length, each with its
whole schedule, and what is among the best third of a rung is run again on the next one, three times
as long (successive halving in its asynchronous form: Li et al., 2020, arXiv:1810.05934). New
points come from Optuna, which is told of the shortest runs.

| the study has | next |
| --- | --- |
| no trial | the config as it is, whole: what a search has to beat |
| one on any rung that is among its best third, and not on the next rung | that one, there |
| budget left | a new point on the lowest rung |
| budget for whole runs only | the best of the rung below the last that was not run whole |
| no budget left | the best and the default with other seeds |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from metronorm.tune.asking import Told, ask
from metronorm.tune.study import Known, Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.tune.asking import Sampler
    from metronorm.tune.space import Point, Space
    from metronorm.tune.study import Method, Study

ETA = 3
LEAST_TICKS = 30  # of the shortest runs
RESERVED = 2.0  # whole runs at the end of the budget, for what is best on the shorter rungs


class Left(NamedTuple):
    """What is left of a budget, in whole runs; None where a whole run's time is not known yet."""

    runs: float | None

    def allows(self, share: float) -> bool:
        """Whether a run of this share of the length may begin."""
        return self.runs is None or share <= self.runs + 1e-9


def shares_of(ticks: int, method: Method, rungs: int = 3) -> list[float]:
    """How long the runs of each rung are, as shares of a whole one."""
    if method != "halving":
        return [1.0]
    shares = [ETA**-below for below in range(rungs - 1, -1, -1)]
    return [share for share in shares if round(ticks * share) >= LEAST_TICKS or share == 1]


def best_of(study: Study, known: Sequence[Known]) -> Known | None:
    """The best of the whole runs; the default is one of them."""
    whole = [
        each
        for each in known
        if each.trial.rung == study.top and each.trial.role != "seed" and each.value is not None
    ]
    return min(whole, key=lambda each: _score(study, each), default=None)


def next_trial(
    study: Study,
    space: Space,
    known: Sequence[Known],
    number: int,
    left: Left,
    default: Point | None,
) -> Trial | None:
    """What to begin now; None: nothing, or nothing before the trials under way have ended.

    Args:
        study: its shares, method and seed.
        space: what is searched.
        known: all trials.
        number: of the new trial.
        left: of the budget.
        default: the point that the config is; None: it lies outside the space.
    """
    seed = study.info.seed
    if not known:
        return Trial(number=number, point=default, rung=study.top, role="default", seed=seed)
    step = _searched(study, space, known, number, left, default)
    if step is not None:
        point, rung = step
        return Trial(number=number, point=point, rung=rung, seed=seed)
    if any(each.result is None for each in known):
        return None
    return _repeated(study, known, number)


def _searched(
    study: Study,
    space: Space,
    known: Sequence[Known],
    number: int,
    left: Left,
    default: Point | None,
) -> tuple[Point, int] | None:
    """The next point and its rung; None: the budget does not allow one."""
    shares, top = study.info.shares, study.top
    for rung in range(top - 1, -1, -1):
        point = _promoted(study, known, rung)
        if point is not None and left.allows(shares[rung + 1]):
            return point, rung + 1
    reserved = RESERVED if top else 0.0
    if left.allows(shares[0] + reserved):
        told = [_told(study, each) for each in known if each.trial.rung == 0 and _is_told(each)]
        if top and default is not None and not told:
            return default, 0
        sampler: Sampler = "random" if study.info.method == "random" else "tpe"
        found = ask(
            space,
            [one for one in told if one],
            seed=study.info.seed,
            sampler=sampler,
            number=number,
        )
        return found, 0
    for rung in range(top - 1, -1, -1):
        point = _promoted(study, known, rung, every=True)
        if point is not None and left.allows(shares[rung + 1]):
            return point, rung + 1
    return None


def _promoted(
    study: Study, known: Sequence[Known], rung: int, *, every: bool = False
) -> Point | None:
    """The best point of a rung that may go on to the next one, and has not.

    Args:
        study: which values are better.
        known: all trials.
        rung: of which.
        every: any may go on, and not only the best third.
    """
    done = [each for each in known if each.trial.rung == rung and each.result is not None]
    above = [each.trial.point for each in known if each.trial.rung == rung + 1]
    ranked = sorted(
        (each for each in done if each.value is not None), key=lambda each: _score(study, each)
    )
    allowed = ranked if every else ranked[: len(done) // ETA]
    return next((each.trial.point for each in allowed if each.trial.point not in above), None)


def _repeated(study: Study, known: Sequence[Known], number: int) -> Trial | None:
    """The best and the default in turn, with every further seed."""
    best = best_of(study, known)
    if best is None or best.trial.role == "default" or best.trial.point == known[0].trial.point:
        return None
    there = {
        (str(each.trial.point), each.trial.seed) for each in known if each.trial.role == "seed"
    }
    for seed in range(study.info.seed + 1, study.info.seed + study.info.seeds):
        for point in (known[0].trial.point, best.trial.point):
            if (str(point), seed) not in there:
                return Trial(number=number, point=point, rung=study.top, role="seed", seed=seed)
    return None


def _is_told(each: Known) -> bool:
    return each.trial.point is not None and each.trial.role != "seed"


def _told(study: Study, each: Known) -> Told | None:
    if each.trial.point is None:
        return None
    value = None if each.value is None else _score(study, each)
    return Told(each.trial.point, value, running=each.result is None)


def _score(study: Study, each: Known) -> float:
    """The value of a trial, the lower the better."""
    assert each.value is not None
    return study.sign * each.value
