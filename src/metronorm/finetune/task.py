"""A pretrained model and data to adapt it to, as a task of the one loop."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from metronorm.errors import ConfigError, DivergenceError
from metronorm.finetune.adapting import adapt, groups
from metronorm.finetune.base import check_frozen, frozen_id
from metronorm.finetune.data_config import DataConfig
from metronorm.finetune.fitting import check_alone, check_loaded, foresee, least
from metronorm.finetune.packing import Packs, Rows
from metronorm.finetune.preparing import prepare
from metronorm.finetune.pretrained import load
from metronorm.finetune.solving import Head, solving
from metronorm.finetune.tuned import Tuned
from metronorm.finetune.updates import lost_updates
from metronorm.finetune.vocabulary import load_vocabulary
from metronorm.text import printable
from metronorm.train.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from metronorm.finetune.adapting import Adapted
    from metronorm.finetune.architectures import Kind
    from metronorm.finetune.config import Config
    from metronorm.finetune.examples import Examples
    from metronorm.finetune.preparing import Prepared
    from metronorm.finetune.vocabulary import Vocabulary

_NAMED = 12  # rows of a tick, in a message
_CONTEXT = 512  # tokens, where nothing else is chosen


def task(config: Config) -> Task:
    """The task of a config: its data are read now, its model when the loop makes it.

    Raises:
        ConfigError: options that do not go together, or not with the model.
        DataError: a model or data that cannot be used.
    """
    return task_of(config, read(config))


class Read(NamedTuple):
    """What a fine-tuning has read before its model is loaded.

    Attributes:
        prepared: the examples.
        vocabulary: of the model.
        context: most tokens of a pack.
        general: text of another kind, to evaluate on; None: there is none.
    """

    prepared: Prepared
    vocabulary: Vocabulary
    context: int
    general: Examples | None = None


def read(config: Config, labels: Sequence[str] | None = None) -> Read:
    """The examples of a config's data.

    Args:
        config: names data and model.
        labels: of a classifier that has them; None: those of the data.

    Raises:
        ConfigError, DataError: as `task`.
    """
    if not config.model or not config.data.data:
        raise ConfigError(
            "fine-tuning needs a pretrained model, and data to adapt it to",
            got="no data" if config.model else "neither",
            fix="metronorm finetune MODEL DATA",
        )
    vocabulary = load_vocabulary(
        config.model, "classifier" if config.task == "classify" else "causal"
    )
    context = config.context or min(_CONTEXT, vocabulary.context)
    if context > vocabulary.context:
        raise ConfigError(
            f"context must be at most what the model can read, {vocabulary.context:,} tokens",
            got=f"{context:,}",
        )
    data = prepare(
        config.data, vocabulary.tokenizer, task=config.task, context=context, labels=labels
    )
    general = None
    if config.general:
        texts = DataConfig(data=config.general, validation=0.0, duplicates="keep")
        found = prepare(texts, vocabulary.tokenizer, task="text", context=context)
        general = found.train
    return Read(data, vocabulary, context, general)


def shared_head(config: Config) -> Head:
    """The head for trainings of a config, shorter ones and those of other rates too."""
    return Head(config.ticks * config.batch_size * config.micro_batches)


def task_of(config: Config, data: Read, *, resume: bool = False, head: Head | None = None) -> Task:
    """The task of a config whose data are read.

    Args:
        config: with the model.
        data: of it, as `read` gives it.
        resume: a run goes on, which keeps what was chosen for its memory.
        head: of a classifier, that it begins with; None: one of its own.

    Raises:
        ConfigError: a limit of memory for several processes.
    """
    check_alone(config)
    asked = config if config.memory and not resume else None
    if asked:  # what takes the least is tried out first, and the choice made when it is loaded
        config = least(config)
    adapted: list[Adapted] = []  # the newest that `model` has made
    frozen: list[str] = []
    causal = config.task != "classify"
    prepared = data.prepared
    order = order_of(config, prepared.train, data)
    held_out = order_of(config, prepared.validation, data) if prepared.validation else None

    def model() -> Tuned:
        made = load_adapted(config, prepared.labels)
        if asked:
            check_loaded(asked)
        adapted[:] = [made]
        frozen[:] = [frozen_id(made)]  # before FSDP2 gives each rank a part
        return Tuned(made, prepared.class_weights, config.loss_chunk or None)

    def save(directory: Path, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        check_frozen(kept.get("frozen", frozen[0]), frozen[0], config.model)
        return {"frozen": frozen[0], "labels": list(prepared.labels), "ends": list(prepared.ends)}

    hooks = [lost_updates(lambda: adapted[0].parameters(), config.evaluate_every)]
    if isinstance(order, Rows):
        shared = head or shared_head(config)
        hooks.append(solving(lambda: adapted[0], order, prepared.class_weights, shared))
    return Task(
        model=model,
        batches=order,
        loss=lambda model, batch: model(batch),
        count=count_tokens if causal else count_texts,
        measure=None if causal else lambda model, batch: model(batch, measure=True),
        validation=held_out.once(config.batch_size) if held_out else None,
        groups=lambda model, config: groups(adapted[0], config.optimizer),
        hooks=hooks,
        save=save,
        unit="answer_tokens" if causal else "texts",
        config=config if asked else None,
        foresee=lambda ready: foresee(ready, order, asked),
    )


@contextlib.contextmanager
def naming_rows(config: Config, data: Read) -> Iterator[None]:
    """Let the error of a loss that is not finite name the rows of its tick.

    Raises:
        DivergenceError: with them.
    """
    try:
        yield
    except DivergenceError as error:
        if error.tick is None:
            raise
        examples, size = data.prepared.train, config.batch_size * config.micro_batches
        numbers = order_of(config, examples, data).chosen((error.tick - 1) * size, size)
        rows = [f"{Path(examples[n].source).name} {examples[n].line}" for n in numbers.tolist()]
        more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
        named = DivergenceError(
            error.must,
            got=f"{error.got}; its rows are {printable(', '.join(rows[:_NAMED]))}{more}",
            fix=error.fix,
        )
        named.tick, named.is_told = error.tick, error.is_told
        raise named from error


def load_adapted(config: Config, labels: tuple[str, ...]) -> Adapted:
    """The model of a config, ready to train; a head that it has not is drawn at random."""
    kind: Kind = "classifier" if config.task == "classify" else "causal"
    return adapt(load(config.model, kind, labels=labels or None), config.adapt)


def count_tokens(batch: Mapping[str, Any]) -> int:
    """The tokens of answers in a batch: those whose loss has its whole weight."""
    return int((torch.as_tensor(batch["weights"]) >= 1).sum())


def count_texts(batch: Mapping[str, Any]) -> int:
    """The texts in a batch."""
    return len(batch["labels"])


def order_of(config: Config, examples: Any, data: Read) -> Packs | Rows:
    """The order in which a config has examples of its data."""
    if config.task != "classify":
        return Packs(examples, data.context, config.seed)
    pad = data.vocabulary.tokenizer.pad_token_id or 0  # padding is known by its place
    return Rows(examples, pad, config.seed, window=config.batch_size * config.micro_batches)
