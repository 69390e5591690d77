"""`metronorm export`: writes a run, or its model, as files of other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import RunPath, parse
from metronorm.cli.console import print_notices
from metronorm.integrations.exporting import export_run
from metronorm.runs import open_run
from metronorm.text import printable

DESCRIPTION = """
    metronorm export runs/shakespeare ticks.parquet
    metronorm export runs/shakespeare ticks.csv --overwrite
    metronorm export runs/shakespeare tensorboard/shakespeare
    metronorm export runs/shakespeare models/shakespeare --format huggingface

Every tick becomes one row, or one step of TensorBoard. With --format huggingface it
is the model of a run of metronorm train, with its tokenizer, for transformers."""


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm export`."""

    run: RunPath
    """Directory of the run."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """A file to write (.csv, .parquet), or a directory for TensorBoard's event files or a model."""
    format: Literal["auto", "tensorboard", "csv", "parquet", "huggingface"] = "auto"
    """Format of the target. auto: by its ending; huggingface: the model."""
    overwrite: bool = False
    """Replace an existing target. A directory is replaced only if it holds nothing but event
    files."""
    layout: Literal["auto", "gpt2", "gpt_neox", "llama"] = "auto"
    """Of a model: the architecture to write it as. auto: the one that expresses it."""
    checkpoint: Literal["best", "last"] = "best"
    """Of a model: the checkpoint with the best evaluation, or the newest one."""
    weights: Literal["trained", "ema", "last"] = "trained"
    """Of a model: trained, the weights as they were; ema, last, an average of them."""


def main(argv: list[str]) -> int:
    """Export the run and print where it is."""
    arguments = parse(Arguments, argv, command="export", description=DESCRIPTION)
    if arguments.format == "huggingface":
        return _export_model(arguments)
    run = open_run(arguments.run)
    export_run(run, arguments.target, kind=arguments.format, overwrite=arguments.overwrite)
    print_notices(run.notices())
    print(printable(f"the run is in {arguments.target}"))
    return 0


def _export_model(arguments: Arguments) -> int:
    from metronorm.tasks.text.exporting import export_model  # torch is loaded only now

    compared = export_model(
        arguments.run,
        arguments.target,
        layout=None if arguments.layout == "auto" else arguments.layout,
        best=arguments.checkpoint == "best",
        average=None if arguments.weights == "trained" else arguments.weights,
    )
    if compared.version is None:
        proof = "not compared, because transformers is not installed"
    else:
        proof = (
            f"its logits in transformers {compared.version} differ by at most "
            f"{compared.largest_gap:.1g} (the largest is {compared.largest_logit:.3g})"
        )
    print(printable(f"the model is in {arguments.target}; {proof}"))
    return 0
