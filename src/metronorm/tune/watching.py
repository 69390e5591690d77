"""A look at a trial in mid-run: is it worth going on?"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from metronorm.runs import open_run
from metronorm.tune.rungs import ETA
from metronorm.tune.stopping import PLACES, Ended, cannot_win

if TYPE_CHECKING:
    from pathlib import Path

    from metronorm.train.task import Moment
    from metronorm.tune.space import Space
    from metronorm.tune.study import Known, Study, Trial

_SCHEDULE = ("schedule", "warmup", "decay", "final")


class Watching:
    """Looks at a trial at `PLACES` of its length, and says whether to stop it.

    Only trials of halving with equal ticks are looked at: others have other ticks, or are asked to
    be trained whole. And the loss must decide, as the losses of the ticks are compared with it.

    Args:
        study: whose trial it is.
        space: which options it differs in.
        trial: which.
    """

    def __init__(self, study: Study, space: Space, trial: Trial) -> None:
        self._study, self._space, self._trial = study, space, trial
        info = study.info
        searched = trial.role == "search" and info.method == "halving" and info.equal == "ticks"
        searched = searched and study.measure == "loss"
        alike = not {f"optimizer.{name}" for name in _SCHEDULE} & {*space.names()}
        self._ticks = max(1, round(info.config["ticks"] * info.shares[trial.rung]))
        places = {max(1, round(place * self._ticks)) for place in PLACES}
        self._places = places if searched and alike else set[int]()

    def look(self, moment: Moment) -> str | None:
        """Why the trial is stopped after this tick; None: it goes on."""
        if moment.tick not in self._places:
            return None
        known = self._study.known()
        ended = [each for each in known if self._is_comparable(each)]
        found = [
            Ended(_kept(self._study.run(each.trial.number)), self._study.sign * each.value)
            for each in ended
            if each.value is not None
        ]
        going_on = 1 if self._trial.rung == self._study.top else max(1, len(ended) // ETA)
        moment.clock.flush()
        losses = losses_of(self._study.run(self._trial.number))[: moment.tick]
        if cannot_win(losses, found, ticks=self._ticks, going_on=going_on):
            return "it cannot win: it is further behind than any trial has made up"
        return None

    def _is_comparable(self, each: Known) -> bool:
        """Whether a trial has come to the end of the same rung, and seen the same windows."""
        trial, mine = each.trial, self._trial
        return (
            each.result is not None
            and (trial.rung, trial.seed) == (mine.rung, mine.seed)
            and _windows(self._space.options(trial.point or {}))
            == _windows(self._space.options(mine.point or {}))
        )


def _windows(options: dict[str, Any]) -> dict[str, Any]:
    """The options that decide which examples a tick has."""
    names = ("batch-size", "micro-batches", "model.context", "context")
    return {name: value for name, value in options.items() if name in names}


@functools.lru_cache(maxsize=1024)
def _kept(run: Path) -> list[float]:
    """The losses of a run that has ended: they never change."""
    return losses_of(run)


def losses_of(run: Path) -> list[float]:
    """The losses of a run, of its ticks from the first one on.

    They are those of the newest attempt where a tick was made twice.
    """
    ticks = open_run(run).ticks()
    if "loss" not in ticks.columns:
        return []
    rows = ticks.only("tick", "loss").fetch("select loss from ticks order by tick")
    return [float(loss) if loss is not None else float("nan") for (loss,) in rows]
