"""Searching for hyper-parameters: what a budget buys, and when the rule that stops trials is wrong.

    python bench/tuning.py search --seeds 3        best loss after a budget, four ways: three hours
    python bench/tuning.py grid                    the rule on a grid that was run whole
    python bench/tuning.py rate                    --learning-rate auto beside a grid
    python bench/tuning.py start                   how soon a trial begins; memory over 200 trials

The training is the preset `quick`, shortened to 267 ticks (20 s on two cores); with --small a
smaller model on the same text, for a slow machine. The four ways search the same built-in space,
begin with the preset's own values, have the same seeds, and are judged by the same evaluation: the
held-out loss of the best whole run. Every whole run that is spent adds a row.

| way | |
| --- | --- |
| ours | `metronorm tune`: short runs with their whole schedule first, and the rule that stops |
| TPE | Optuna's TPE, whole runs |
| TPE, median pruner | the same with Optuna's MedianPruner, which sees eight evaluations of a run |
| random | whole runs at random |
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import itertools
import math
import random
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from _rows import append

from metronorm.models import GPTConfig
from metronorm.tasks import text
from metronorm.train import train
from metronorm.train.config_changes import config_to_dict
from metronorm.train.task import Hook
from metronorm.tune import subjects
from metronorm.tune.asking import _distribution, label, optuna
from metronorm.tune.built_in import built_in
from metronorm.tune.options import with_values
from metronorm.tune.rate import find_rate
from metronorm.tune.rungs import best_of, shares_of
from metronorm.tune.search import Budget, search
from metronorm.tune.stopping import PLACES, Ended, cannot_win
from metronorm.tune.study import Info, create_study
from metronorm.tune.watching import losses_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metronorm.tune.space import Space

NAME = "tuning"
UNIT = "nats per token"
WAYS = ("ours", "TPE", "TPE, median pruner", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("search", "grid", "rate", "start"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--ticks", type=int, default=267)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="*", default=WAYS)
    arguments = parser.parse_args()
    config = base(arguments.ticks, small=arguments.small)
    named = f"quick{', small' if arguments.small else ''}, {arguments.ticks} ticks"
    if arguments.what == "search":
        for seed, way in itertools.product(range(arguments.seeds), arguments.ways):
            compare(way, seed, arguments.runs, config, named)
    elif arguments.what == "grid":
        grid(config, named)
    elif arguments.what == "rate":
        rate(config, named)
    else:
        start(config)


def base(ticks: int, *, small: bool) -> Any:
    """The training that is searched for."""
    config = text.training_preset("quick")
    config = replace(
        config, ticks=ticks, evaluate_every=10**6, checkpoint_every=10**6, sample_every=0
    )
    if not small:
        return config
    shape = GPTConfig(vocab_size=1024, context=64, layers=2, heads=2, width=64)
    return replace(config, model=shape, batch_size=8)


class Spent:
    """The best loss so far, as a row for every whole run that is spent."""

    def __init__(self, case: str) -> None:
        self.case, self.runs, self.best, self.told = case, 0.0, math.inf, 0

    def add(self, share: float, value: float | None, *, whole: bool = True) -> None:
        self.runs += share
        if whole and value is not None:
            self.best = min(self.best, value)
        if math.floor(self.runs + 1e-9) > self.told and self.best < math.inf:
            self.told = math.floor(self.runs + 1e-9)
            append(NAME, f"{self.case}, after {self.told} runs", UNIT, [self.best])


def compare(way: str, seed: int, runs: int, config: Any, named: str) -> None:
    """Search in one way with one seed."""
    spent = Spent(f"{named}: {way}, seed {seed}")
    space = built_in(config)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if way == "ours":
            ours(seed, runs, config, space, Path(folder), spent)
        else:
            plainly(way, seed, runs, config, space, Path(folder), spent)
    append(NAME, f"{spent.case}, time", "s", [time.perf_counter() - begin])


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
        trial = study.ask({each.name: _distribution(each) for each in space.dimensions})
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
    config: Any, run: Path, every: int, stop: Callable[[int, float], bool] | None = None
) -> Any:
    """How a training ended, evaluated every so many ticks; None: it diverged."""
    from metronorm.errors import DivergenceError

    def look(moment: Any) -> None:
        if stop is not None and not moment.last and stop(moment.tick, moment.measures["loss"]):
            moment.stop("pruned")

    def task(config: Any) -> Any:
        made = text.task(config)
        return replace(made, hooks=[*made.hooks, Hook(every, look)])

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return train(task, replace(config, evaluate_every=every), run)
    except DivergenceError:
        return None
    finally:
        gc.collect()


def grid(config: Any, named: str) -> None:
    """Runs that are all made whole, and the rule asked afterwards, in many orders."""
    optimizer = config.optimizer
    steps = [10 ** (step / 3) for step in range(-3, 4)]
    found: list[Ended] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (one, other) in enumerate(itertools.product(steps, steps[::2])):
            changed = replace(
                optimizer,
                learning_rate=optimizer.learning_rate * one,
                matrix_learning_rate=optimizer.matrix_learning_rate * other,
            )
            run = Path(folder, str(number))
            outcome = quietly(replace(config, optimizer=changed), run, 10**6)
            if outcome is not None:
                found.append(Ended(losses_of(run), outcome.measures["loss"]))
                print(f"{one:.2g} {other:.2g}: {found[-1].value:.4f}", flush=True)
    for going_on in (1, 3):
        replay(found, config.ticks, going_on, named)


def replay(found: Sequence[Ended], ticks: int, going_on: int, named: str) -> None:
    """What the rule does in 100 orders of the grid: how many stops are wrong, what it saves."""
    chance, stops, wrong, saved, runs = random.Random(0), 0, 0, 0.0, 0
    for _ in range(100):
        order = chance.sample(list(found), len(found))
        ended: list[Ended] = []
        for trial in order:
            runs += 1
            for place in PLACES:
                at = round(place * ticks)
                allowed = 1 if going_on == 1 else max(1, len(ended) // going_on)
                if cannot_win(trial.losses[:at], ended, ticks=ticks, going_on=allowed):
                    rivals = sorted(one.value for one in ended)
                    stops += 1
                    wrong += trial.value < rivals[allowed - 1]
                    saved += 1 - place
                    break
            else:
                ended.append(trial)
    kind = "against the best" if going_on == 1 else f"against the best {going_on}rd"
    case = f"{named}, grid of {len(found)}: {kind}"
    append(NAME, f"{case}, false stops", "%", [100 * wrong / max(1, stops)])
    append(NAME, f"{case}, stopped", "%", [100 * stops / runs])
    append(NAME, f"{case}, saved", "% of the ticks", [100 * saved / runs])


def rate(config: Any, named: str) -> None:
    """What --learning-rate auto reaches, beside the default and a grid of the same ratio."""
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        found = find_rate(text.task, config, Path(folder, "auto"), print)
        took = time.perf_counter() - begin
        chosen = {"auto": found.config, "default": config}
        for step in range(-4, 5):
            factor = 10 ** (step / 4)
            optimizer = replace(
                config.optimizer,
                learning_rate=config.optimizer.learning_rate * factor,
                matrix_learning_rate=config.optimizer.matrix_learning_rate * factor,
            )
            chosen[f"grid {factor:.3g}"] = replace(config, optimizer=optimizer)
        whole = 0.0
        for name, each in chosen.items():
            begin = time.perf_counter()
            outcome = quietly(each, Path(folder, name.replace(" ", "-")), 10**6)
            whole = time.perf_counter() - begin
            losses[name] = outcome.measures["loss"] if outcome else math.inf
            print(f"{name}: {losses[name]:.4f}", flush=True)
            if name == "auto":
                append(NAME, f"{named}: rate auto, cost", "% of the run", [100 * took / whole])
                append(NAME, f"{named}: rate auto, factor", "times the preset's", [found.factor])
    best = min(value for name, value in losses.items() if name.startswith("grid"))
    append(NAME, f"{named}: rate auto", UNIT, [losses["auto"]])
    append(NAME, f"{named}: rate of the preset", UNIT, [losses["default"]])
    append(NAME, f"{named}: best rate of a grid", UNIT, [best])


def start(config: Any) -> None:
    """Trials of a few ticks in one process: from one's end to the next's first tick; memory."""
    config = replace(base(3, small=True), evaluate_tokens=64)
    begins: list[float] = []
    memory: list[float] = []
    ended = [time.perf_counter()]
    process = psutil.Process()

    def task(config: Any) -> Any:
        made = text.task(config)

        def first(moment: Any) -> None:
            if moment.tick == 1:
                begins.append(time.perf_counter() - ended[0])

        return replace(made, hooks=[*made.hooks, Hook(1, first)])

    def tell(*_: object) -> None:
        memory.append(process.memory_info().rss / 2**20)
        ended[0] = time.perf_counter()

    space = built_in(config)
    info = Info(
        config=config_to_dict(config), space=space.as_dict(), shares=[1.0], method="whole", seeds=1
    )
    with tempfile.TemporaryDirectory() as folder:
        study = create_study(Path(folder, "study"), info)
        search(study, space, subjects.training(config, task), Budget(runs=200), tell)
    append(NAME, "from a trial's end to the first tick of the next", "s", begins[1:])
    append(NAME, "memory after 20 trials", "MiB", [memory[19]])
    append(NAME, "memory after 200 trials", "MiB", [memory[-1]])


if __name__ == "__main__":
    main()
