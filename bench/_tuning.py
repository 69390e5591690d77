"""The four ways of `tuning.py` to search the same space, and the training that they search for."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import math
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _rows import append

from metronorm.errors import DivergenceError
from metronorm.models import GPTConfig
from metronorm.tasks import text
from metronorm.train import train
from metronorm.train.config_changes import config_to_dict
from metronorm.train.task import Hook
from metronorm.tune import subjects
from metronorm.tune.asking import distribution, label, optuna
from metronorm.tune.built_in import built_in
from metronorm.tune.options import with_values
from metronorm.tune.rungs import best_of, shares_of
from metronorm.tune.search import Budget, search
from metronorm.tune.study import Info, create_study

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metronorm.tune.space import Space

NAME = "tuning"
UNIT = "nats per token"
WAYS = ("ours", "TPE", "TPE, median pruner", "random")


def base(ticks: int, *, small: bool) -> Any:
    """The training that is searched for; all runs have one precision."""
    config = text.training_preset("quick")
    config = replace(
        config,
        ticks=ticks,
        evaluate_every=10**6,
        checkpoint_every=10**6,
        sample_every=0,
        precision="fp32",
        allocator="system",
    )
    if not small:
        return config
    shape = GPTConfig(vocab_size=1024, context=64, layers=2, heads=2, width=64)
    return replace(config, model=shape, batch_size=8, evaluate_tokens=16_384)


def scaled(config: Any, factor: float) -> Any:
    """The config with both of its learning rates times a factor."""
    optimizer = config.optimizer
    optimizer = replace(
        optimizer,
        learning_rate=optimizer.learning_rate * factor,
        matrix_learning_rate=optimizer.matrix_learning_rate * factor,
    )
    return replace(config, optimizer=optimizer)


class Spent:
    """The best loss so far, as a row for every whole run that is spent."""

    def __init__(self, case: str) -> None:
        self.case, self.runs, self.best, self.told = case, 0.0, math.inf, 0
        self.bests: list[tuple[float, float]] = []  # whole runs, and the best loss by then

    def add(self, share: float, value: float | None, *, whole: bool = True) -> None:
        self.runs += share
        if whole and value is not None:
            self.best = min(self.best, value)
        self.bests.append((self.runs, self.best))
        if math.floor(self.runs + 1e-9) > self.told and self.best < math.inf:
            self.told = math.floor(self.runs + 1e-9)
            append(NAME, f"{self.case}, after {self.told} runs", UNIT, [self.best])

    def end(self, runs: int) -> None:
        """A search whose last run would not fit into the budget has the row of its end, too."""
        if self.told < runs:
            append(NAME, f"{self.case}, after {runs} runs", UNIT, [self.best])

    def runs_until(self, loss: float) -> float:
        """How many whole runs it took to come down to a loss; infinite: it did not."""
        return next((runs for runs, best in self.bests if best <= loss), math.inf)


def compared(ways: Sequence[str], seed: int, runs: int, config: Any, named: str) -> None:
    """Search in several ways with one seed: when ours is where each of the others ends."""
    spent = {way: searched(way, seed, runs, config, named) for way in ways}
    for way, other in spent.items():
        if way == "ours" or "ours" not in spent:
            continue
        case = f"{named}: ours, seed {seed}, is as good as {way} after {runs} runs"
        append(NAME, case, "runs", [spent["ours"].runs_until(other.best)])


def searched(way: str, seed: int, runs: int, config: Any, named: str) -> Spent:
    """Search in one way with one seed."""
    spent = Spent(f"{named}: {way}, seed {seed}")
    space = built_in(config)
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if way == "ours":
            ours(seed, runs, config, space, Path(folder), spent)
        else:
            plainly(way, seed, runs, config, space, Path(folder), spent)
    spent.end(runs)
    append(NAME, f"{spent.case}, time", "s of the processor", [time.process_time() - begin])
    return spent


def ours(seed: int, runs: int, config: Any, space: Space, folder: Path, spent: Spent) -> None:
    info = Info(
        config=config_to_dict(config),
        space=space.as_dict(),
        shares=shares_of(config.ticks, "halving"),
        seed=seed,
        seeds=1,
    )
    study = create_study(folder / "study", info)
    search(
        study,
        space,
        subjects.training(replace(config, seed=seed), text.task),
        Budget(runs=runs),
        lambda trial, result, best: spent.add(
            result.share, result.value, whole=trial.rung == study.top
        ),
    )
    print(f"ours: {len(study.known())} trials, best {best_of(study, study.known())}")


def plainly(
    way: str, seed: int, runs: int, config: Any, space: Space, folder: Path, spent: Spent
) -> None:
    """Optuna by itself, as its manual has it."""
    library = optuna()
    sampler = (
        library.samplers.RandomSampler(seed=seed)
        if way == "random"
        else library.samplers.TPESampler(seed=seed)
    )
    pruner = library.pruners.MedianPruner() if "median" in way else library.pruners.NopPruner()
    study = library.create_study(sampler=sampler, pruner=pruner)
    default = space.point_of(config)
    assert default is not None
    study.enqueue_trial({name: label(value) for name, value in default.items()})
    for number in itertools.count():
        if spent.runs >= runs - 1e-9:
            return
        trial = study.ask({each.name: distribution(each) for each in space.dimensions})
        changed = replace(with_values(config, trial.params), seed=seed)
        every = max(1, config.ticks // 8) if "median" in way else 10**6
        outcome = quietly(changed, folder / str(number), every, partial(_pruned, trial))
        value = None if outcome is None or outcome.reason else outcome.measures["loss"]
        share = outcome.tick / config.ticks if outcome else 1.0
        if value is None:
            state = library.trial.TrialState.PRUNED
            study.tell(trial, state=state)
        else:
            study.tell(trial, value)
        spent.add(share, value)


def _pruned(trial: Any, tick: int, loss: float) -> bool:
    trial.report(loss, tick)
    return bool(trial.should_prune())


def quietly(
    config: Any,
    run: Path,
    every: int,
    stop: Callable[[int, float], bool] | None = None,
    task: Callable[[Any], Any] = text.task,
) -> Any:
    """How a training ended, evaluated every so many ticks; None: it diverged."""

    def look(moment: Any) -> None:
        if stop is not None and not moment.last and stop(moment.tick, moment.measures["loss"]):
            moment.stop("pruned")

    def looking(config: Any) -> Any:
        made = task(config)
        return replace(made, hooks=[*made.hooks, Hook(every, look)])

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return train(looking, replace(config, evaluate_every=every), run)
    except DivergenceError:
        return None
    finally:
        gc.collect()
