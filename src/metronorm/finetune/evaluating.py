"""A model before and after: the same held-out rows, each row's sums, and what changed.

| task | figures |
| --- | --- |
| chat, text | loss in nats per answer token, its exponential (perplexity), how often the most probable token is the right one; how often answers stop; perplexity of general text |
| classify | loss per text, accuracy, and the mean F1 of the classes |

A loss here is that of the rows as they are: weights of classes are for training alone.
"""  # noqa: E501

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from metronorm.errors import ConfigError
from metronorm.finetune.adapting import Adapted
from metronorm.finetune.config import STOPS
from metronorm.finetune.paired import Difference, difference, macro_f1, ratio
from metronorm.finetune.pretrained import load
from metronorm.finetune.row_sums import row_sums
from metronorm.finetune.stopping import ends_of, prompts_of, stops
from metronorm.finetune.task import load_adapted, order_of, read
from metronorm.finetune.tuned_run import checkpoint_of, put_trained
from metronorm.train.evaluate import evaluating
from metronorm.train.precision import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from metronorm.checkpoints.checkpoint import Checkpoint
    from metronorm.finetune.architectures import Kind
    from metronorm.finetune.config import Config
    from metronorm.finetune.data_config import DataConfig, TaskName
    from metronorm.finetune.stopping import Prompt
    from metronorm.finetune.task import Read
    from metronorm.train.precision import Fixed

_GENERAL_TOKENS = 1 << 15  # of general text; more say little more, and take their time


class Figure(NamedTuple):
    """One figure before and after.

    Attributes:
        name: what it is.
        lower_is_better: of this figure.
        found: its two values, and the interval of the change.
    """

    name: str
    lower_is_better: bool
    found: Difference

    @property
    def is_better(self) -> bool:
        """Whether it is better afterwards in all of the interval."""
        return self.found.high < 0 if self.lower_is_better else self.found.low > 0


class Exam(NamedTuple):
    """What a model is measured on, the same before and after.

    Attributes:
        rows: batches of rows in order.
        prompts: to answer; none: how often answers stop is not measured.
        ends: tokens that end an answer, beside those of the model.
        general: batches of general text; None: there is none.
    """

    rows: Iterable[Mapping[str, Any]]
    prompts: Sequence[Prompt] = ()
    ends: Sequence[int] = ()
    general: Iterable[Mapping[str, Any]] | None = None


class Results(NamedTuple):
    """What a model has done in an exam: arrays of a line for each row.

    Attributes:
        rows: see `row_sums`.
        stops: see `stops`; None: not measured.
        general: see `row_sums`; None: not measured.
    """

    rows: NDArray[np.float64]
    stops: NDArray[np.float64] | None = None
    general: NDArray[np.float64] | None = None


def exam_of(config: Config, data: Read, examples: Any) -> Exam:
    """The exam on some examples.

    Args:
        config: that they were read with; `stops` is the number of prompts.
        data: that they are of.
        examples: rows that are held out, or that the model has never seen.
    """
    rows = order_of(config, examples, data).once(config.batch_size)
    prepared = data.prepared
    columns = prepared.ledger.columns
    # a text without a prompt is no answer, and of prompts that count like answers no end is known
    answers = config.task != "classify" and (config.task == "chat" or "text" not in columns)
    if not answers or config.data.prompt_weight == 1 or not prepared.ends:
        prompts = []
    else:
        prompts = prompts_of(examples, config.stops, context=data.vocabulary.context)
    general = None
    if data.general is not None:
        every = -(-len(data.general.texts.ids) // _GENERAL_TOKENS)
        general = order_of(config, data.general[::every], data).once(config.batch_size)
    return Exam(rows, prompts, prepared.ends, general)


def examine(adapted: Adapted, exam: Exam, precision: Fixed = "fp32") -> Results:
    """What a model does in an exam.

    Args:
        adapted: the model.
        exam: of its kind.
        precision: of the products.
    """
    model = adapted.pretrained.model
    device = next(model.parameters()).device
    with evaluating(model), autocast(device, precision):
        rows = row_sums(adapted, exam.rows)
        general = None if exam.general is None else row_sums(adapted, exam.general)
        ended = None
        if exam.prompts:
            ended = stops(model, exam.prompts, ends_of(adapted.pretrained, exam.ends))
    return Results(rows, ended, general)


def compare(before: Results | None, after: Results, *, causal: bool) -> list[Figure]:
    """The figures of the same exam before and after.

    Args:
        before: None: there is one model alone, and all values but those of `after` are NaN.
        after: of the same exam.
        causal: texts to write, not to classify.
    """

    def figure(
        name: str,
        function: Callable[[NDArray[np.float64]], float],
        columns: tuple[int, ...],
        *,
        of: Callable[[Results], Any] = lambda results: results.rows,
        lower_is_better: bool = False,
    ) -> Figure:
        old = None if before is None else of(before)[:, columns]
        return Figure(name, lower_is_better, difference(old, of(after)[:, columns], function))

    if not causal:
        return [
            figure("loss, nats per text", _mean, (0,), lower_is_better=True),
            figure("accuracy", _accuracy, (1, 2)),
            figure("macro-F1", macro_f1, (1, 2)),
        ]
    found = [
        figure("loss, nats per answer token", ratio, (0, 1), lower_is_better=True),
        figure("perplexity of answers", _perplexity, (0, 1), lower_is_better=True),
        figure("most probable token is right", ratio, (2, 1)),
    ]
    if after.stops is not None:
        name = f"answers that stop, of {len(after.stops):,}"
        found.append(figure(name, ratio, (0, 1), of=lambda results: results.stops))
    if after.general is not None:
        found.append(
            figure(
                "perplexity of general text",
                _perplexity,
                (0, 1),
                of=lambda results: results.general,
                lower_is_better=True,
            )
        )
    return found


def _mean(rows: NDArray[np.float64]) -> float:
    return float(rows[:, 0].mean())


def _accuracy(rows: NDArray[np.float64]) -> float:
    return float((rows[:, 0] == rows[:, 1]).mean())


def _perplexity(rows: NDArray[np.float64]) -> float:
    return math.exp(min(ratio(rows), 700.0))


def before_and_after(
    adapted: Adapted, exam: Exam, found: Checkpoint, config: Config
) -> list[Figure]:
    """The figures of a model as it begins, and with what a checkpoint has, which it keeps.

    Args:
        adapted: of the config, as it begins.
        exam: of its kind.
        found: the checkpoint.
        config: of the run.

    Raises:
        CheckpointError, DataError: as `put_trained`.
    """
    before = examine(adapted, exam, found.state["precision"])
    put_trained(adapted, found, config)
    after = examine(adapted, exam, found.state["precision"])
    return compare(before, after, causal=config.task != "classify")


def evaluate_run(
    run: Path,
    data: DataConfig,
    *,
    task: TaskName | None = None,
    context: int = 0,
    general: tuple[str, ...] = (),
    stops: int = STOPS,
    best: bool = True,
) -> list[Figure]:
    """The figures of rows before a run and after it.

    Args:
        run: directory of a fine-tuned run.
        data: the rows, all of which are evaluated.
        task: what they are for; None: what the run was for.
        context: most tokens of a row; 0: as in the run.
        general: text of another kind, see `Config`.
        stops: prompts to answer, see `Config`.
        best: the checkpoint with the best evaluation; else the newest.

    Raises:
        MetronormError: as `checkpoint_of` and `prepare`.
        ConfigError: a classifier and rows to write, or the other way round.
    """
    found, config = checkpoint_of(run, best=best)
    if task and (task == "classify") != (config.task == "classify"):
        raise ConfigError(f"task must suit a run of {config.task}", got=task)
    asked = replace(
        config,
        data=data,
        task=task or config.task,
        context=context or config.context,
        general=general,
        stops=stops,
    )
    labels = tuple(found.state["labels"])
    rows = read(asked, labels=labels or None)
    exam = exam_of(asked, rows, rows.prepared.train)
    exam = exam._replace(ends=(*exam.ends, *found.state.get("ends", ())))
    return before_and_after(load_adapted(config, labels), exam, found, config)


def evaluate_model(config: Config) -> list[Figure]:
    """The figures of a pretrained model alone: `before` and the interval are NaN.

    Args:
        config: names the model, the rows and the task.

    Raises:
        MetronormError: as `load` and `prepare`.
    """
    kind: Kind = "classifier" if config.task == "classify" else "causal"
    pretrained = load(config.model, kind)
    rows = read(config, labels=pretrained.labels or None)
    exam = exam_of(config, rows, rows.prepared.train)
    after = examine(Adapted(pretrained, config.adapt, 0), exam)
    return compare(None, after, causal=kind == "causal")
