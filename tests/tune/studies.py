"""Studies of the small task, for tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from metronorm.train.config_changes import config_to_dict
from metronorm.tune import subjects
from metronorm.tune.rungs import shares_of
from metronorm.tune.search import parse_budget, search
from metronorm.tune.space_file import space_from
from metronorm.tune.study import Info, Study, create_study, open_study

from .least_squares import Config, task

SPACE: dict[str, Any] = {
    "optimizer.learning-rate": {"log": [1e-4, 1.0]},
    "hidden": {"integers": [2, 8]},
}


def begun(directory: Path, config: Config | None = None, **options: Any) -> Study:
    """A new study."""
    config = config or Config()
    method = options.setdefault("method", "whole")
    info = Info(
        config=config_to_dict(config),
        space=options.pop("space", SPACE),
        shares=options.pop("shares", shares_of(config.ticks, method)),
        **options,
    )
    return create_study(directory, info)


def searched(study: Study, budget: str, config: Config | None = None, make: Any = task) -> Any:
    """Work on a study until the budget is spent; what `search` returns."""
    space = space_from(study.info.space, Config)
    subject = subjects.training(config or Config(), make)
    return search(study, space, subject, parse_budget(budget))


def fork_on_demand(directory: Path, budget: str) -> None:
    """Fork a process that works on a study for each line that is read, and tell its number.

    Each begins at once, as what it needs is loaded here.
    """
    from metronorm.tune import asking

    asking.optuna()
    import metronorm.train.opening  # noqa: F401

    for _ in sys.stdin:
        number = os.fork()
        if number == 0:
            os._exit(0 if searched(open_study(directory), budget) is None else 1)
        print(number, flush=True)


if __name__ == "__main__":
    fork_on_demand(Path(sys.argv[1]), sys.argv[2])
