"""`metronorm finetune`: from a pretrained model and data to an adapted model that others load."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metronorm.cli import show, training
from metronorm.cli._config_file import read_options
from metronorm.cli.arguments import parse, value_of
from metronorm.cli.console import Console, print_notices
from metronorm.cli.figures import print_figures
from metronorm.cli.free_directory import free_directory, named_after
from metronorm.errors import ConfigError
from metronorm.finetune.config import Config, defaults, is_tuned_run
from metronorm.finetune.ways import ADAPTER_WAYS, AdaptConfig
from metronorm.ranks import find_place
from metronorm.text import counted
from metronorm.train.config_changes import config_from_dict, run_config

if TYPE_CHECKING:
    from metronorm.finetune.task import Read
    from metronorm.train.loop import Outcome

DESCRIPTION = f"""
    metronorm finetune MODEL chats.jsonl            answers of chats, by LoRA
    metronorm finetune MODEL mails.csv --task classify --way norm+head
    metronorm finetune MODEL chats.jsonl --check    see what becomes of data
    metronorm finetune --resume runs/NAME           go on with a stopped run

MODEL is a directory in Hugging Face layout or a GGUF file. At the end the rows that were held out
are evaluated before and after. Then the model is saved to the run's folder `model`, loaded by
another process with plain transformers, and compared.

{training.SIGNALS}"""

NOT_BETTER = 1


@dataclass(frozen=True)
class Options(training.Options):
    """Options of `metronorm finetune` that are no training's own."""

    check: bool = False
    """Read the data, print where every row and token went and a few examples, write what was
    dropped to rejects.jsonl, and stop."""
    save: Literal["auto", "adapter", "model", "nothing"] = "auto"
    """What to save at the end. adapter: what was trained, for peft; model: the whole model; auto:
    the adapter where the way has one."""
    save_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the weights of a whole model."""
    fail_unless_better: bool = False
    """Exit with 1 unless the loss on the rows that were held out is lower afterwards, in all of its
    95 % interval."""


def options_kind() -> Any:
    """The dataclass of all options."""
    return training.arguments_of(Config, Options)


def main(argv: list[str]) -> int:
    """Fine-tune; as `metronorm train`, and 1 for `--fail-unless-better`."""
    ended = training.unless_stopped(lambda: _finetune(argv))
    return ended if isinstance(ended, int) else _finish(*ended)


def _finetune(argv: list[str]) -> int | tuple[Outcome, Path, Read, Any]:
    resumed = training.run_to_resume(argv)
    kinds = options_kind()
    arguments: Any = parse(
        kinds,
        argv,
        command="finetune",
        description=DESCRIPTION,
        default=kinds(training=default_config(argv, resumed)),
    )
    training.check(arguments, arguments.training, argv)
    training.check_mirrors(arguments.mirror)
    training.check_rate(arguments, argv)
    _check_saving(arguments)
    config: Config = arguments.training
    if not arguments.check:
        code = training.launched(arguments.processes, "finetune", argv, dry_run=arguments.dry_run)
        if code is not None:
            return code
    from metronorm.finetune.exporting import check_form  # torch is loaded only now
    from metronorm.finetune.task import naming_rows, read, shared_head, task_of

    data = read(config)
    check_form(config, arguments.save)
    if not find_place().rank:
        _print_ledger(data)
    if arguments.check:
        return _print_samples(data)
    from metronorm.train import train

    if arguments.dry_run:
        return training.print_plan(
            task_of(config, data, resume=resumed is not None), config, arguments.processes
        )
    run = Path(resumed or arguments.run or arguments.resume_or_start or _directory(config))
    head = shared_head(config) if arguments.learning_rate else None  # of the short runs, too
    config = training.with_rate(
        arguments,
        lambda config: task_of(config, data, head=head),
        config,
        run,
        resumed=resumed is not None,
    )
    with naming_rows(config, data), training.mirrored(arguments.mirror, run):
        outcome = train(
            lambda config: task_of(config, data, resume=resumed is not None, head=head),
            config,
            run,
            resume=resumed is not None,
            from_tick=arguments.from_tick,
        )
    if find_place().rank:
        return 128 + outcome.signal if outcome.signal else 0
    data.prepared.ledger.write_rejects(run / "rejects.jsonl")
    return outcome, run, data, arguments


def _check_saving(arguments: Any) -> None:
    """Refuse now what would be refused, or left out, after hours of training."""
    way, save = arguments.training.adapt.way, arguments.save
    if save == "nothing" and arguments.fail_unless_better:
        raise ConfigError(
            "--fail-unless-better looks at the table before saving",
            got="--save nothing, which ends without it",
            fix="metronorm evaluate RUN DATA --fail-unless-better",
        )
    if save == "adapter" and way not in ADAPTER_WAYS:
        raise ConfigError(
            f"--save adapter is for ways {', '.join(ADAPTER_WAYS)}",
            got=f"--way {way}",
            fix="--save model",
        )


def default_config(argv: list[str], resumed: Path | None) -> Config:
    """The config that holds where the arguments say nothing."""
    file = value_of("--config", argv)
    if resumed:
        if file is not None and value_of("--resume", argv):
            raise ConfigError("--config is for a new run and --resume goes on with an old one")
        return config_from_dict(_tuned(resumed), Config)
    if file is not None:
        return config_from_dict(read_options(Path(file)), Config, Path(file))
    # what is chosen decides the defaults of the rest; a value that is none is refused later
    task, way, name = (value_of(f"--{each}", argv) for each in ("task", "way", "optimizer.name"))
    try:
        return defaults(task or "chat", AdaptConfig(way=way or "lora"), name or "adamw")  # type: ignore[arg-type]
    except (ConfigError, KeyError):
        return defaults("chat", AdaptConfig(way="lora"))


def _tuned(run: Path) -> dict[str, Any]:
    if not is_tuned_run(run):
        raise ConfigError(
            "metronorm finetune goes on with what it has begun",
            got=f"{run}, a run of another task",
            fix=f"metronorm train --resume {shlex.quote(str(run))}",
        )
    return run_config(run)


def _directory(config: Config) -> Path:
    data = named_after(config.data.data)
    return free_directory((f"{data}-{config.adapt.way.replace('+', '-')}",))


def _print_ledger(data: Read) -> None:
    ledger = data.prepared.ledger
    Console(stderr=True).print(ledger.table())
    print_notices(ledger.notices())


def _print_samples(data: Read) -> int:
    from metronorm.finetune.samples import show_samples

    prepared, console = data.prepared, Console()
    for text in show_samples(prepared.train, data.vocabulary.tokenizer, labels=prepared.labels):
        console.print(text, end="\n\n")
    if dropped := prepared.ledger.dropped:
        path = Path("rejects.jsonl")
        prepared.ledger.write_rejects(path)
        print(f"dropped: {counted(len(dropped), 'row')}, see {path}", file=sys.stderr)
    return 0


def _finish(outcome: Outcome, run: Path, data: Read, arguments: Any) -> int:
    again = ["metronorm", "finetune", "--resume", str(run)]
    again += ["--mirror", *arguments.mirror] if arguments.mirror else []
    code = training.stopped(outcome, again)
    if code is not None:
        return code
    show.main([str(run)])
    if arguments.save == "nothing":
        return 0
    from metronorm.finetune.finishing import finish

    form = None if arguments.save == "auto" else arguments.save
    found = finish(
        run,
        data,
        stops=arguments.training.stops,
        form=form,
        dtype=arguments.save_dtype,
        tell=print_figures,
    )
    print(f"\nsaved and proven: {found.directory}\n  {found.proof}")
    if arguments.fail_unless_better and not (found.figures and found.figures[0].is_better):
        print("metronorm finetune: the held-out loss is not lower", file=sys.stderr)
        return NOT_BETTER
    return 0
