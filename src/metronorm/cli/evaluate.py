"""`metronorm evaluate`: a fine-tuned model beside its base model, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import parse
from metronorm.cli.figures import print_figures
from metronorm.errors import ConfigError
from metronorm.finetune.config import STOPS, defaults
from metronorm.finetune.data_config import DataConfig, TaskName
from metronorm.finetune.ways import AdaptConfig

DESCRIPTION = """
    metronorm evaluate runs/chats-lora more.jsonl    on other rows
    metronorm evaluate runs/chats-lora more.jsonl --general book.txt
    metronorm evaluate MODEL chats.jsonl             a model alone

--general shows what was forgotten. The loss of a classifier is without weights of classes, which
are for training.

The interval is that of 95 of 100 samples of as many rows, drawn for both models alike."""

NOT_BETTER = 1


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm evaluate`."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """Directory of a fine-tuned run, of a pretrained model, or a GGUF file."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: DataConfig(validation=0.0, duplicates="keep")
    )
    task: TaskName | None = None
    """What the rows are for. None: as in the run; of a model chat."""
    context: int = 0
    """Most tokens of a row. 0: as in the run; of a model 512."""
    general: tuple[str, ...] = ()
    """Files or folders of text of another kind: the perplexity shows what was forgotten. Of much
    text about 32,000 tokens are taken, evenly spread."""
    stops: int = STOPS
    """Prompts of the rows for the model to answer by itself: how often does an answer stop within
    twice its length, or 64 tokens? 0: leave this out."""
    checkpoint: Literal["best", "last"] = "best"
    """Of a run: the checkpoint with the best evaluation, or the newest."""
    fail_unless_better: bool = False
    """Exit with 1 unless the loss is lower afterwards, in all of its interval."""


def main(argv: list[str]) -> int:
    """Print the figures; 1 for `--fail-unless-better`."""
    arguments = parse(Arguments, argv, command="evaluate", description=DESCRIPTION)
    if not arguments.data.data:
        raise ConfigError("an evaluation needs rows", got="no DATA")
    if arguments.data.validation or arguments.data.validation_data:
        raise ConfigError(
            "an evaluation takes all rows of DATA", got="--validation or --validation-data"
        )
    if arguments.data.class_weights != "none":
        raise ConfigError("weights of classes are for training", got="--class-weights")
    from metronorm.finetune.evaluating import evaluate_model, evaluate_run  # torch is loaded now

    best = arguments.checkpoint == "best"
    if (arguments.model / "run.json").exists():
        figures = evaluate_run(
            arguments.model,
            arguments.data,
            task=arguments.task,
            context=arguments.context,
            general=arguments.general,
            stops=arguments.stops,
            best=best,
        )
    else:
        config = replace(
            defaults(arguments.task or "chat", AdaptConfig()),
            model=str(arguments.model),
            data=arguments.data,
            context=arguments.context,
            general=arguments.general,
            stops=arguments.stops,
        )
        figures = evaluate_model(config)
    print_figures(figures)
    if arguments.fail_unless_better and not figures[0].is_better:
        return NOT_BETTER
    return 0
