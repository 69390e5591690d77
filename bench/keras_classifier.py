"""Test accuracy and time of recipes/keras_classifier.py: the model of many tutorials, five ways.

Runs the recipe, or reads what it left in a folder of runs. Rows are over the seeds; the time of a
tick is the median of a run's, "in all" that of the whole training with an evaluation every epoch.

python bench/keras_classifier.py [--runs runs/keras_classifier] [--epochs 100] [--seeds 3]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from _rows import append

from metronorm.runs import open_run

NAME = "keras_classifier"
RECIPE = Path(__file__).parents[1] / "recipes" / "keras_classifier.py"
VARIANTS = {
    "without": "TensorFlow, without normalization",
    "metronorm": "TensorFlow, metronorm.keras.LayerNormalization",
    "keras": "TensorFlow, keras.layers.LayerNormalization",
    "formula": "TensorFlow, the formula written out",
    "torch": "torch, metronorm.norm.LayerNorm",
}
FIGURES = (
    ("test accuracy", "1", "arg_max(val_accuracy, tick)"),
    ("test loss", "nats", "arg_max(val_loss, tick)"),
    ("tick", "ms", "median(wall_ns) / 1e6"),
    ("in all", "s", "sum(wall_ns) / 1e9"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/keras_classifier"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    if not arguments.runs.exists():
        numbers = ["--epochs", str(arguments.epochs), "--seeds", str(arguments.seeds)]
        words = [str(RECIPE), "--runs", str(arguments.runs), *numbers]
        subprocess.run([sys.executable, *words], check=True)
    for module in ("torch", "tensorflow", "keras"):
        import_module(module)  # so that the rows say their versions
    for variant, told in VARIANTS.items():
        runs = [open_run(path) for path in sorted(arguments.runs.glob(f"{variant}-*"))]
        runs = [run for run in runs if run.info.config["epochs"] == arguments.epochs]
        for what, unit, expression in FIGURES if runs else ():
            found = [run.ticks().sql(f"select {expression} from ticks") for run in runs]
            samples = [float(relation.fetchall()[0][0]) for relation in found]
            append(NAME, f"{arguments.epochs} epochs, {told}, {what}", unit, samples)


if __name__ == "__main__":
    main()
