"""What to try next, asked of Optuna: this is the only file that knows it.

Optuna keeps nothing. At every question a study in memory is made of the trials that are known, and
forgotten afterwards: so the answer depends on them and on the seed alone.

| a trial | Optuna has it as |
| --- | --- |
| with a value | complete |
| under way | running: its neighbourhood counts as bad, so that processes try different points |
| diverged, out of memory, stopped, or of options that do not go together | pruned, worst of all |
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metronorm.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metronorm.tune.space import Dimension, Point, Space

Sampler = Literal["tpe", "random"]


class Told(NamedTuple):
    """A trial as Optuna is told of it.

    Attributes:
        point: where.
        value: the lower the better; None: there is none.
        running: it may get one.
    """

    point: Point
    value: float | None
    running: bool = False


def optuna() -> Any:
    """Optuna, quiet.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import optuna as found
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise MissingDependencyError(
            "a search needs the package 'optuna'",
            got="no such package",
            fix="pip install 'metronorm[tune]'",
        ) from None
    found.logging.set_verbosity(found.logging.ERROR)
    return found


def ask(
    space: Space, told: Sequence[Told], *, seed: int, sampler: Sampler = "tpe", number: int = 0
) -> Point:
    """The next point to try.

    Args:
        space: what is searched.
        told: all that is known, in the order of the trials.
        seed: of the search.
        sampler: Optuna's tree-structured Parzen estimator, or points at random.
        number: of the question: another one has other random numbers.

    Raises:
        MissingDependencyError: Optuna is not installed.
    """
    study = study_of(space, told, seed=seed + 100_003 * (number + 1), sampler=sampler)
    trial = study.ask()
    point: Point = {}
    for each in space.dimensions:
        if space.active(point, each):
            point[each.name] = _suggested(trial, each)
    return point


def study_of(space: Space, told: Sequence[Told], *, seed: int = 0, sampler: Sampler = "tpe") -> Any:
    """Optuna's study of the trials that are known, in memory."""
    found = optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", found.exceptions.ExperimentalWarning)
        chosen = (
            found.samplers.RandomSampler(seed=seed)
            if sampler == "random"
            else found.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=True
            )
        )
    study = found.create_study(sampler=chosen)
    states = found.trial.TrialState
    for each in told:
        params, kinds = _params(space, each.point)
        state = (
            states.RUNNING
            if each.running
            else states.PRUNED
            if each.value is None
            else states.COMPLETE
        )
        study.add_trial(
            found.trial.create_trial(
                params=params,
                distributions=kinds,
                value=each.value if state == states.COMPLETE else None,
                state=state,
            )
        )
    return study


def _params(space: Space, point: Point) -> tuple[dict[str, Any], dict[str, Any]]:
    params: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    for each in space.dimensions:
        if each.name in point:
            params[each.name] = (
                label(point[each.name]) if each.kind == "choices" else point[each.name]
            )
            kinds[each.name] = distribution(each)
    return params, kinds


def distribution(each: Dimension) -> Any:
    """The values of a dimension as Optuna has them."""
    found = optuna().distributions
    if each.kind == "choices":
        return found.CategoricalDistribution([label(value) for value in each.values])
    low, high = each.values
    if each.kind == "integers":
        return found.IntDistribution(low, high - (high - low) % each.step, step=each.step)
    return found.FloatDistribution(low, high, log=each.kind == "log")


def _suggested(trial: Any, each: Dimension) -> Any:
    if each.kind == "choices":
        labels = [label(value) for value in each.values]
        chosen = trial.suggest_categorical(each.name, labels)
        return each.values[labels.index(chosen)]
    low, high = each.values
    if each.kind == "integers":
        high -= (high - low) % each.step
        return trial.suggest_int(each.name, low, high, step=each.step)
    return trial.suggest_float(each.name, low, high, log=each.kind == "log")


def label(value: Any) -> Any:
    """A choice as Optuna takes it: a text, a number or a truth value."""
    return value if isinstance(value, str | int | float) else json.dumps(value)
