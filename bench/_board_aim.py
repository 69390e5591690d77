"""Writes the numbers of a file into a repository of Aim: run by the interpreter that has it.

    python bench/_board_aim.py NUMBERS.npy FOLDER

Of each row the first number is the step, the second the loss.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def main() -> None:
    from aim import Run

    numbers, folder = map(Path, sys.argv[1:])
    run = Run(repo=str(folder), system_tracking_interval=None, log_system_params=False)
    run.name = numbers.stem
    for step, loss in np.load(numbers):
        run.track(float(loss), name="loss", step=int(step))
    run.close()


if __name__ == "__main__":
    main()
