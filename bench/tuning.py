"""Searching for hyper-parameters: what a budget buys, and when the rule that stops trials is wrong.

    python bench/tuning.py search --seeds 3        best loss after a budget, four ways: three hours
    python bench/tuning.py grid                    the rule on a grid that was run whole
    python bench/tuning.py rate --of recipe        --learning-rate auto beside a grid
    python bench/tuning.py structure --seeds 3     norms, their place, depth and width
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
import itertools
import random
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from _rates import OF, rate
from _rows import append
from _structure import structure
from _tuning import NAME, WAYS, base, compared, quietly

from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.train.config_changes import config_to_dict
from metronorm.train.task import Hook
from metronorm.tune import subjects
from metronorm.tune.built_in import built_in
from metronorm.tune.search import Budget, search
from metronorm.tune.stopping import PLACES, Ended, cannot_win
from metronorm.tune.study import Info, create_study
from metronorm.tune.watching import losses_of

if TYPE_CHECKING:
    from collections.abc import Sequence

TICKS = 267
ORDERS = 30  # of a grid, in which the rule is asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("search", "grid", "rate", "start", "structure"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--of", choices=OF, default="quick", help="what the rate is found for")
    parser.add_argument("--ticks", type=int, help="267; of rate see OF")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--ways", nargs="*", default=WAYS)
    parser.add_argument("--folder", help="where the runs of a grid stay, and go on")
    arguments = parser.parse_args()
    ticks = arguments.ticks or TICKS
    config = base(ticks, small=arguments.small)
    named = f"quick{', small' if arguments.small else ''}, {ticks} ticks"
    if arguments.what == "search":
        for seed in range(arguments.seeds):
            compared(arguments.ways, seed, arguments.runs, config, named)
    elif arguments.what == "grid":
        grid(config, named, arguments.folder)
    elif arguments.what == "rate":
        for seed in range(arguments.seeds):
            rate(arguments.of, arguments.ticks, seed)
    elif arguments.what == "structure":
        structure(ticks, arguments.seeds)
    else:
        start()


def grid(config: Any, named: str, kept: str | None) -> None:
    """Runs that are all made whole, and the rule asked afterwards, in many orders."""
    optimizer = config.optimizer
    steps = [10 ** (step / 2) for step in range(-2, 3)]
    found: list[Ended] = []
    with contextlib.ExitStack() as stack:
        folder = kept or stack.enter_context(tempfile.TemporaryDirectory())
        for number, (one, other) in enumerate(itertools.product(steps, steps[:-1])):
            changed = replace(
                optimizer,
                learning_rate=optimizer.learning_rate * one,
                matrix_learning_rate=optimizer.matrix_learning_rate * other,
            )
            run = Path(folder, str(number))
            losses = losses_of(run) if (run / "run.json").exists() else []
            last = open_run(run).ticks().rows()[-1] if losses else {}
            if len(losses) == config.ticks and "validation_loss" in last:  # by an earlier call
                found.append(Ended(losses, last["validation_loss"]))
                continue
            shutil.rmtree(run, ignore_errors=True)
            outcome = quietly(replace(config, optimizer=changed), run, 10**6)
            if outcome is not None:
                found.append(Ended(losses_of(run), outcome.measures["loss"]))
                print(f"{one:.2g} {other:.2g}: {found[-1].value:.4f}", flush=True)
    for going_on in (1, 3):
        replay(found, config.ticks, going_on, named)


def replay(found: Sequence[Ended], ticks: int, going_on: int, named: str) -> None:
    """What the rule does in 30 orders of the grid: how many stops are wrong, what it saves."""
    chance, stops, wrong, saved, runs = random.Random(0), 0, 0, 0.0, 0
    for _ in range(ORDERS):
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


def start() -> None:
    """Trials of a few ticks in one process: from one's end to the next's first tick; memory.

    Processor time is there too, as other programs may run on the machine.
    """
    config = replace(base(3, small=True), evaluate_tokens=64, precision="auto", allocator="auto")
    begins: list[tuple[float, float]] = []
    memory: list[float] = []
    ended = [(time.perf_counter(), time.process_time())]
    process = psutil.Process()

    def task(config: Any) -> Any:
        made = text.task(config)

        def first(moment: Any) -> None:
            if moment.tick == 1:
                wall, busy = ended[0]
                begins.append((time.perf_counter() - wall, time.process_time() - busy))

        return replace(made, hooks=[*made.hooks, Hook(1, first)])

    def tell(*_: object) -> None:
        memory.append(process.memory_info().rss / 2**20)
        ended[0] = time.perf_counter(), time.process_time()

    space = built_in(config)
    info = Info(
        config=config_to_dict(config), space=space.as_dict(), shares=[1.0], method="whole", seeds=1
    )
    with tempfile.TemporaryDirectory() as folder:
        study = create_study(Path(folder, "study"), info)
        search(study, space, subjects.training(config, task), Budget(runs=200), tell)
    case = "from a trial's end to the first tick of the next"
    append(NAME, case, "s", [wall for wall, _ in begins[1:]])
    append(NAME, f"{case}, processor time", "s", [busy for _, busy in begins[1:]])
    append(NAME, "memory after 20 trials", "MiB", [memory[19]])
    append(NAME, "memory after 200 trials", "MiB", [memory[-1]])


if __name__ == "__main__":
    main()
