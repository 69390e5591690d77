"""The Bible after Shakespeare: a run that begins with another's weights, beside one with none.

The preset `quick` learns Shakespeare. Then the same preset learns the King James Bible, from these
weights and in their tokens, and from random ones and in tokens of its own; all else is the same.
Reported is the loss on the held-out end of the Bible at every evaluation, in nats per character,
which tokens do not change. The text, where Debian's packages bible-kjv and bible-kjv-text are:

bible -f gen1:1-rev22:21 | sed 's/^[^ ]* //' > bible.txt
python bench/init_from.py bible.txt
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from _rows import append

from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.tasks.text import training_preset
from metronorm.train import train

NAME = "init_from"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--first-ticks", type=int, default=2400)
    parser.add_argument("--ticks", type=int, default=400)
    arguments = parser.parse_args()
    quick = replace(training_preset("quick"), sample_every=0)
    bible = replace(
        quick,
        text=replace(quick.text, data=(str(arguments.text),)),
        ticks=arguments.ticks,
        evaluate_every=max(1, arguments.ticks // 8),
    )
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "shakespeare")
        train(text.task, replace(quick, ticks=arguments.first_ticks), first)
        for case, run, config in (
            (
                f"from {arguments.first_ticks} ticks of Shakespeare",
                Path(folder, "tuned"),
                replace(bible, init_from=str(first)),
            ),
            ("from random weights", Path(folder, "scratch"), bible),
        ):
            train(text.task, config, run)
            for row in open_run(run).ticks().rows():
                loss = row.get("validation_loss_per_character")
                if loss is not None:
                    append(NAME, f"{case}, tick {row['tick']}", "nats per character", [loss])


if __name__ == "__main__":
    main()
