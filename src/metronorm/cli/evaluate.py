"""`metronorm evaluate`: the held-out loss of a model, or a fine-tuned one beside its base."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from metronorm.cli.arguments import parse
from metronorm.cli.figures import print_figures, print_held_out
from metronorm.errors import ConfigError
from metronorm.finetune.config import STOPS, defaults, is_pretrained, is_tuned_run
from metronorm.finetune.data_config import DataConfig, TaskName
from metronorm.finetune.ways import AdaptConfig

if TYPE_CHECKING:
    from metronorm.tasks.text.evaluating import HeldOut

DESCRIPTION = """
    metronorm evaluate runs/shakespeare              its held-out text
    metronorm evaluate runs/shakespeare --data book.txt --stride 64
    metronorm evaluate runs/chats-lora more.jsonl --general book.txt
    metronorm evaluate MODEL chats.jsonl             a model alone

Of a run of metronorm train: the loss of each token of a text, once, in nats, and in bits per token,
character and byte. Of a fine-tuned run: what its rows show, before and after.

--general shows what was forgotten. The loss of a classifier is without weights of classes, which
are for training.

The interval is that of 95 of 100 samples of as many rows, drawn for both models alike."""

NOT_BETTER = 1


@dataclass(frozen=True)
class Arguments:
    """Options of `metronorm evaluate`."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """Directory of a run, of a pretrained model, or a GGUF file."""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: DataConfig(validation=0.0, duplicates="keep")
    )
    task: TaskName | None = None
    """What the rows are for. None: as in the run; of a model chat."""
    context: int = 0
    """Most tokens of a row, or most that a token of a text sees. 0: as in the run; of a model
    512."""
    general: tuple[str, ...] = ()
    """Files or folders of text of another kind: the perplexity shows what was forgotten. Of much
    text about 32,000 tokens are taken, evenly spread."""
    stops: int = STOPS
    """Prompts of the rows for the model to answer by itself: how often does an answer stop within
    twice its length, or 64 tokens? 0: leave this out."""
    checkpoint: Literal["best", "last"] = "best"
    """Of a run: the checkpoint with the best evaluation, or the newest."""
    text: Annotated[tuple[str, ...], tyro.conf.arg(name="data")] = ()
    """Of a run of metronorm train: what metronorm prepare reads (files of text or of rows, folders,
    globs, - for standard input), in the tokens of the run. Nothing: the text that the run held
    out."""
    column: str | None = None
    """Of a run of metronorm train: the column of the text in files of rows. None: as in the run."""
    stride: int = 0
    """Of a run of metronorm train: tokens from the beginning of a window to that of the next. With
    fewer than the context, a token sees more of what is before it; this takes longer. 0: the
    context, so that windows do not overlap."""
    weights: Literal["trained", "ema", "last"] = "trained"
    """Of a run of metronorm train: the weights as they were; ema, last: an average of them, if the
    training kept it."""
    device: str = "auto"
    """Of a run of metronorm train: that computes, such as cpu or cuda:1. auto: the accelerator, if
    there is one."""
    cache: Path | None = None
    """Of a run of metronorm train: folder of the prepared tokens. None: as of metronorm prepare."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Of a run of metronorm train: print all figures as JSON."""
    fail_unless_better: bool = False
    """Exit with 1 unless the loss is lower afterwards, in all of its interval."""


# what the two kinds of runs do not have in common
_OF_ROWS = ("task", "general", "stops", "fail_unless_better")
_OF_TEXT = ("text", "column", "stride", "weights", "device", "cache", "json")


def main(argv: list[str]) -> int:
    """Print the figures; 1 for `--fail-unless-better`."""
    arguments = parse(Arguments, argv, command="evaluate", description=DESCRIPTION)
    is_run = (arguments.model / "run.json").exists()
    if is_run and not is_tuned_run(arguments.model):
        return _evaluate_text(arguments)
    if not is_run and not is_pretrained(arguments.model):
        there = "which is none of these" if arguments.model.exists() else "which is not there"
        raise ConfigError(
            "an evaluation needs a run (a directory with a run.json), a pretrained model (one with "
            "a config.json) or a GGUF file",
            got=f"{arguments.model}, {there}",
            fix="metronorm runs, which lists the runs below the folder runs",
        )
    _refuse(arguments, _OF_TEXT, "for runs of metronorm train")
    if not arguments.data.data:
        raise ConfigError(
            "an evaluation of a fine-tuned run or a model needs rows",
            got="no DATA",
            fix=f"metronorm evaluate {arguments.model} rows.jsonl",
        )
    if arguments.data.validation or arguments.data.validation_data:
        raise ConfigError(
            "an evaluation takes all rows of DATA", got="--validation or --validation-data"
        )
    if arguments.data.class_weights != "none":
        raise ConfigError("weights of classes are for training", got="--class-weights")
    from metronorm.finetune.evaluating import evaluate_model, evaluate_run  # torch is loaded now

    best = arguments.checkpoint == "best"
    if is_run:
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


def _evaluate_text(arguments: Arguments) -> int:
    _refuse(arguments, _OF_ROWS, "for fine-tuned models")
    rows = Arguments(model=arguments.model).data
    changed = [each.name for each in fields(rows) if each.name != "data"]
    changed = [name for name in changed if getattr(arguments.data, name) != getattr(rows, name)]
    if changed:
        raise ConfigError(f"{_option(changed[0])} is for rows", got=f"{arguments.model}, of text")
    from metronorm.tasks.text.evaluating import evaluate_run  # torch is loaded only now

    found = evaluate_run(
        arguments.model,
        (*arguments.data.data, *arguments.text),
        context=arguments.context,
        stride=arguments.stride,
        best=arguments.checkpoint == "best",
        average=None if arguments.weights == "trained" else arguments.weights,
        device=arguments.device,
        cache=arguments.cache,
        column=arguments.column,
    )
    if arguments.json:
        print(json.dumps(_record(found), indent=2))
    else:
        print_held_out(found)
    return 0


def _record(found: HeldOut) -> dict[str, object]:
    """The fields and the figures; JSON has no infinity, which is text."""
    figures = {
        "loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_token": found.bits_per_token,
        "bits_per_character": found.bits_per_character,
        "bits_per_byte": found.bits_per_byte,
    }
    plain = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
    return {each.name: getattr(found, each.name) for each in fields(found)} | plain


def _refuse(arguments: Arguments, names: tuple[str, ...], why: str) -> None:
    """Raise ConfigError for options that the other kind of model has."""
    default = Arguments(model=arguments.model)
    for name in names:
        if getattr(arguments, name) != getattr(default, name):
            option = "--data" if name == "text" else _option(name)
            raise ConfigError(f"{option} is {why}", got=str(arguments.model))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
