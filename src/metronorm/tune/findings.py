"""What a study has found: the trials in order, what matters, what it cost and what it bought."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from metronorm.tune.asking import Told, optuna, study_of
from metronorm.tune.rungs import best_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.tune.space import Point, Space
    from metronorm.tune.study import Known, Study

LEAST_FOR_IMPORTANCE = 20  # trials with a value; of fewer, chance decides what matters
_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # of 1 to 9 degrees


class Bought(NamedTuple):
    """What a search has bought against the default, with the same seeds for both.

    Attributes:
        best, default: means over the seeds.
        seeds: how many both have.
        low, high: the 95 % interval of the paired difference (Student); None: of one seed.
    """

    best: float
    default: float
    seeds: int
    low: float | None
    high: float | None


class Cost(NamedTuple):
    """What a study has cost.

    Attributes:
        trials: how many.
        runs: of whole runs, how many they come to.
        seconds: of training.
        statuses: how many trials ended in which way.
    """

    trials: int
    runs: float
    seconds: float
    statuses: dict[str, int]


def ranked(study: Study, known: Sequence[Known]) -> list[Known]:
    """The trials with a value: the longest first, and of equal length the best first."""
    found = [each for each in known if each.value is not None and each.trial.role != "seed"]
    return sorted(found, key=lambda each: (-each.trial.rung, study.sign * (each.value or 0.0)))


def cost(known: Sequence[Known]) -> Cost:
    """What all trials together have cost, those with other seeds too."""
    results = [each.result for each in known if each.result is not None]
    statuses: dict[str, int] = {}
    for result in results:
        statuses[result.status] = statuses.get(result.status, 0) + 1
    return Cost(
        len(results),
        sum(result.share for result in results),
        sum(result.seconds for result in results),
        statuses,
    )


def bought(study: Study, known: Sequence[Known]) -> Bought | None:
    """The best beside the default, over the seeds that both have; None: the default is the best."""
    best = best_of(study, known)
    if best is None or not known or best.trial.role == "default":
        return None
    one, other = (
        _by_seed(study, known, point) for point in (best.trial.point, known[0].trial.point)
    )
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    changes = [one[seed] - other[seed] for seed in seeds]
    low = high = None
    if 1 < len(changes) <= len(_T_95) + 1:
        half = _T_95[len(changes) - 2] * stdev(changes) / math.sqrt(len(changes))
        low, high = fmean(changes) - half, fmean(changes) + half
    means = (fmean(found[seed] for seed in seeds) for found in (one, other))
    return Bought(next(means), next(means), len(seeds), low, high)


def _by_seed(study: Study, known: Sequence[Known], point: Point | None) -> dict[int, float]:
    return {
        each.trial.seed: each.value
        for each in known
        if each.value is not None and each.trial.rung == study.top and each.trial.point == point
    }


def importance(study: Study, space: Space, known: Sequence[Known]) -> dict[str, float]:
    """How much of the spread of the loss each option explains, the largest share first.

    PED-ANOVA (Watanabe et al., 2023, arXiv:2304.10255), as Optuna has it, on the rung with the most
    trials. Empty where less than twenty have a value.
    """
    rung = fullest(known)
    told = [
        Told(each.trial.point, study.sign * each.value)
        for each in known
        if each.trial.rung == rung
        and each.value is not None
        and each.trial.point is not None
        and each.trial.role != "seed"
    ]
    if len(told) < LEAST_FOR_IMPORTANCE:
        return {}
    made, found = study_of(space, told), optuna()
    evaluator = found.importance.PedAnovaImportanceEvaluator()
    params = [each.name for each in space.dimensions if all(each.name in one.point for one in told)]
    shares: dict[str, float] = found.importance.get_param_importances(
        made, evaluator=evaluator, params=params
    )
    return dict(sorted(shares.items(), key=lambda each: -each[1]))


def fullest(known: Sequence[Known]) -> int:
    """The rung on which most trials have a value."""
    counts: dict[int, int] = {}
    for each in known:
        if each.value is not None and each.trial.role != "seed":
            counts[each.trial.rung] = counts.get(each.trial.rung, 0) + 1
    return max(counts, key=lambda rung: counts[rung], default=0)


def slices(study: Study, space: Space, known: Sequence[Known]) -> dict[str, list[dict[str, Any]]]:
    """The loss over each dimension: by its name, the trials that have it, with their rung."""
    found: dict[str, list[dict[str, Any]]] = {each.name: [] for each in space.dimensions}
    for each in known:
        if each.value is None or each.trial.point is None or each.trial.role == "seed":
            continue
        for name, value in each.trial.point.items():
            found[name].append(
                {
                    "trial": each.trial.number,
                    "rung": each.trial.rung,
                    "value": each.value,
                    "at": value,
                }
            )
    return found
