"""A study goes on until its budget is spent; any number of processes may work on it.

What a process does next, in this order:

| there is | it |
| --- | --- |
| a trial without a result that nobody has | goes on with it, in mid-run |
| something to try (`rungs.py`) | claims the next number, and asks under that claim |
| nothing, and other processes have trials | waits: one may be killed, or its result lead on |
| nothing, and no trial under way | ends |

New trials are created under the claim of their number, which is the next one for everybody: so they
are created one after the other, and each question to Optuna knows of all trials before it.
"""

from __future__ import annotations

import gc
import math
import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metronorm.errors import ConfigError
from metronorm.train.config_changes import write_toml
from metronorm.tune.claiming import claim
from metronorm.tune.rungs import Left, best_of, next_trial
from metronorm.tune.running import config_of, run_trial
from metronorm.tune.study import BEST, Result, no_room
from metronorm.tune.watching import Watching

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

    from metronorm.store.owner import Ownership
    from metronorm.tune.space import Point, Space
    from metronorm.tune.study import Known, Study, Trial
    from metronorm.tune.subjects import Subject

MOST_IN_VAIN = 50  # points in a row whose options do not go together
_WAIT_SECONDS = 0.3
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Budget:
    """How much a search may train: whole runs, or seconds of training; one of them is infinite."""

    runs: float = math.inf
    seconds: float = math.inf

    def left(self, study: Study, known: Sequence[Known]) -> Left:
        """What is left of it; trials under way count whole, and those with other seeds not."""
        counted = [each for each in known if each.trial.role != "seed"]
        shares = study.info.shares
        begun = sum(shares[each.trial.rung] for each in counted if each.result is None)
        done = [each.result for each in counted if each.result is not None]
        if self.runs < math.inf:
            return Left(self.runs - begun - sum(each.share for each in done))
        share = sum(each.share for each in done)
        seconds = sum(each.seconds for each in done)
        if not share or not seconds:
            return Left(None if not begun else 0.0)
        whole = seconds / share
        return Left((self.seconds - seconds) / whole - begun)


def parse_budget(text: str) -> Budget:
    """A budget from "40runs", "90s", "10m" or "2h".

    Raises:
        ConfigError: it is none, or less than one run.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(runs?|s|m|min|h|d)", text.strip(), re.ASCII)
    must = "a budget must be a number of runs, or a time: 40runs, 10m, 2h"
    if not found:
        fix = f"{text}runs" if text.strip().isdigit() else None
        raise ConfigError(must, got=repr(text), fix=fix)
    number = float(found[1])
    if found[2].startswith("run"):
        if not 1 <= number < 1e9:
            raise ConfigError("a budget must allow one run", got=repr(text), fix="40runs")
        return Budget(runs=number)
    if not 0 < number < 1e9:
        raise ConfigError(must, got=repr(text))
    return Budget(seconds=number * _UNITS[found[2]])


def search(
    study: Study,
    space: Space,
    subject: Subject,
    budget: Budget,
    tell: Callable[[Trial, Result, bool], object] = lambda trial, result, best: None,
) -> signal.Signals | None:
    """Work on a study until its budget is spent, or a signal comes, which is returned.

    Args:
        study: the study.
        space: what is searched.
        subject: what is trained.
        budget: how much all processes may train together.
        tell: called with every trial of this process that has ended, its result, and whether it is
            the best of the whole runs.

    Raises:
        ConfigError, DataError: the config cannot be trained as it is, or none of many points can.
        RunError: the disk is full, or a file of the study is damaged.
    """
    try:
        return _worked(study, space, subject, budget, tell)
    finally:
        gc.unfreeze()


def _worked(
    study: Study,
    space: Space,
    subject: Subject,
    budget: Budget,
    tell: Callable[[Trial, Result, bool], object],
) -> signal.Signals | None:
    default, frozen = space.point_of(subject.config), False
    while True:
        taken = _take(study, space, budget, default)
        if taken is None:
            return None
        trial, claimed = taken
        try:
            ended = run_trial(
                study,
                space,
                subject,
                trial,
                Watching(study, space, trial).look,
                claimed.touch,
            )
            if not isinstance(ended, Result):
                return ended
            claimed.confirm()
            study.finish(trial.number, ended)
        finally:
            claimed.release()
        known = study.known()
        best = best_of(study, known)
        is_best = best is not None and best.trial.number == trial.number
        if is_best:
            write_best(study, space, subject, trial)
        tidy(study, known, best)
        tell(trial, ended, is_best)
        _check_useful(known)
        if not frozen:  # what libraries have loaded is looked through no more: that takes a while
            gc.freeze()
            frozen = True


def _take(
    study: Study, space: Space, budget: Budget, default: Point | None
) -> tuple[Trial, Ownership] | None:
    """A trial for this process, which has claimed it; None: the study has ended."""
    while True:
        known = study.known()
        for each in known:
            if each.result is None and (held := claim(study, each.trial.number)):
                if study.result(each.trial.number) is None:
                    return each.trial, held
                held.release()  # its process has written the result meanwhile, and let go of it
        number = _free_number(known)
        held = claim(study, number)
        if held is not None:
            trial, known = None, study.known()  # whoever had the claim may have created a trial
            if _free_number(known) == number:
                trial = _next(study, space, budget, default, known)
                if trial is not None and study.create(trial):
                    return trial, held
            held.release()
            if trial is None and _free_number(known) == number and all(e.result for e in known):
                return None
        time.sleep(_WAIT_SECONDS)


def _free_number(known: Sequence[Known]) -> int:
    return max((each.trial.number for each in known), default=-1) + 1


def _next(
    study: Study, space: Space, budget: Budget, default: Point | None, known: Sequence[Known]
) -> Trial | None:
    left = budget.left(study, known)
    return next_trial(study, space, known, _free_number(known), left, default)


def write_best(study: Study, space: Space, subject: Subject, trial: Trial) -> None:
    """Write the config of a trial, as `metronorm train --config` takes it.

    Raises:
        RunError: it cannot be written.
    """
    config = config_of(study, space, subject.config, trial)
    try:
        write_toml(study.directory / BEST, config)
    except OSError as error:
        raise no_room(study.directory, error) from None


def tidy(study: Study, known: Sequence[Known], best: Known | None) -> None:
    """Remove the checkpoints of trials that have ended; the best one keeps its own."""
    for each in known:
        folder = study.run(each.trial.number) / "checkpoints"
        ended = each.result is not None and (best is None or each.trial != best.trial)
        if ended and folder.exists():
            shutil.rmtree(folder, ignore_errors=True)


def _check_useful(known: Sequence[Known]) -> None:
    results = [each.result for each in known[-MOST_IN_VAIN:] if each.result is not None]
    vain = [each.reason for each in results if each.status in ("conflict", "failed")]
    if len(vain) == MOST_IN_VAIN:
        raise ConfigError(
            "a space must have points that can be trained",
            got=f"{MOST_IN_VAIN} in a row that cannot: {vain[-1]}",
            fix="fewer options, or `when` for those that need another one",
        )
