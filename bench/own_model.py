"""Accuracy of recipes/own_model.py on the test images of Fashion-MNIST, and how long it trains.

Runs the recipe, or reads a run that it has left. The time is that of all ticks, with evaluations
and checkpoints.

python bench/own_model.py [--run runs/own_model]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch  # noqa: F401  so that the rows say its version
from _rows import append

from metronorm.runs import open_run

NAME = "own_model"
RECIPE = Path(__file__).parents[1] / "recipes" / "own_model.py"
FIGURES = {
    "test accuracy": "1",
    "test loss": "nats",
    "time in ticks": "s",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, help="a finished run of the recipe; none: a new one")
    run = parser.parse_args().run
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            run = Path(folder, "run")
            subprocess.run([sys.executable, str(RECIPE), "--run", str(run)], check=True)
        ((ticks, *figures),) = (
            open_run(run)
            .ticks()
            .sql(
                """select count(*), arg_max(test_accuracy, tick), arg_max(test_loss, tick),
                          sum(wall_ns) / 1e9 from ticks"""
            )
            .fetchall()
        )
    for (what, unit), figure in zip(FIGURES.items(), figures, strict=True):
        append(NAME, f"{ticks:,} ticks, {what}", unit, [float(figure)])


if __name__ == "__main__":
    main()
