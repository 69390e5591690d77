"""`metronorm evaluate`: a fine-tuned model beside its base model, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metronorm.cli.arguments import parse
from metronorm.cli.figures import print_figures
from metronorm.errors import ConfigError
from metronorm.finetune.config import Config
from metronorm.finetune.data_config import DataConfig, TaskName

DESCRIPTION = """
    metronorm evaluate runs/chats-lora more.jsonl    on other rows
    metronorm evaluate runs/chats-lora book.txt --task text
    metronorm evaluate MODEL chats.jsonl             a model alone

With --task text on texts of another kind, it shows what was forgotten.

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
    checkpoint: Literal["best", "last"] = "best"
    """Of a run: the checkpoint with the best evaluation, or the newest."""
    fail_unless_better: bool = False
    """Exit with 1 unless the loss is lower afterwards, in all of its interval."""


def main(argv: list[str]) -> int:
    """Print the figures; 1 for `--fail-unless-better`."""
    arguments = parse(Arguments, argv, command="evaluate", description=DESCRIPTION)
    if not arguments.data.data:
        raise ConfigError("an evaluation needs rows", got="no DATA")
    from metronorm.finetune.evaluating import evaluate_model, evaluate_run  # torch is loaded now

    best = arguments.checkpoint == "best"
    if (arguments.model / "run.json").exists():
        figures = evaluate_run(
            arguments.model,
            arguments.data,
            task=arguments.task,
            context=arguments.context,
            best=best,
        )
    else:
        config = Config(task=arguments.task or "chat", context=arguments.context)
        figures = evaluate_model(replace(config, model=str(arguments.model), data=arguments.data))
    print_figures(figures)
    if arguments.fail_unless_better and not figures[0].is_better:
        return NOT_BETTER
    return 0
