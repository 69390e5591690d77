"""A model before and after: the same held-out rows, each row's sums, and what changed.

| task | figures |
| --- | --- |
| chat, text | loss in nats per answer token, its exponential (perplexity), and how often the most probable token is the right one |
| classify | loss per text, accuracy, and the mean F1 of the classes |

Logits are never kept for more than a few hundred positions.
"""  # noqa: E501

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from metronorm.errors import ConfigError
from metronorm.finetune.adapting import Adapted
from metronorm.finetune.architectures import features, head
from metronorm.finetune.paired import Difference, difference, macro_f1, ratio
from metronorm.finetune.pretrained import load
from metronorm.finetune.task import load_adapted, order_of, read
from metronorm.finetune.tuned import class_logits
from metronorm.finetune.tuned_run import checkpoint_of, put_trained
from metronorm.train.evaluate import evaluating
from metronorm.train.precision import autocast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from metronorm.finetune.architectures import Kind
    from metronorm.finetune.config import Config
    from metronorm.finetune.data_config import DataConfig, TaskName
    from metronorm.train.precision import Fixed

_CHUNK = 256  # positions whose logits exist at once


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


@torch.no_grad()
def row_sums(
    adapted: Adapted, batches: Iterable[Mapping[str, Any]], precision: Fixed = "fp32"
) -> NDArray[np.float64]:
    """What each row adds to the figures.

    Args:
        adapted: the model.
        batches: of rows in order, as the training has them.
        precision: of the products.

    Returns:
        (rows, 3): of texts to write, loss, tokens that count and how many of them are the most
        probable; of texts to classify, loss, label and the most probable label.
    """
    model = adapted.pretrained.model
    device = next(model.parameters()).device
    rows = _written if adapted.pretrained.kind == "causal" else _classified
    with evaluating(model), autocast(device, precision):
        found = [rows(adapted, batch) for batch in batches]
    return np.concatenate(found)


def compare(
    before: NDArray[np.float64], after: NDArray[np.float64], *, causal: bool
) -> list[Figure]:
    """The figures of the same rows before and after.

    Args:
        before: as `row_sums` gives them.
        after: the same rows.
        causal: texts to write, not to classify.
    """

    def of(columns: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return before[:, columns], after[:, columns]

    if causal:
        return [
            Figure("loss, nats per answer token", True, difference(*of((0, 1)), ratio)),
            Figure("perplexity of answers", True, difference(*of((0, 1)), _perplexity)),
            Figure("most probable token is right", False, difference(*of((2, 1)), ratio)),
        ]
    return [
        Figure("loss, nats per text", True, difference(*of((0,)), _mean)),
        Figure("accuracy", False, difference(*of((1, 2)), _accuracy)),
        Figure("macro-F1", False, difference(*of((1, 2)), macro_f1)),
    ]


def _mean(rows: NDArray[np.float64]) -> float:
    return float(rows[:, 0].mean())


def _accuracy(rows: NDArray[np.float64]) -> float:
    return float((rows[:, 0] == rows[:, 1]).mean())


def evaluate_run(
    run: Path,
    data: DataConfig,
    *,
    task: TaskName | None = None,
    context: int = 0,
    best: bool = True,
) -> list[Figure]:
    """The figures of rows before a run and after it.

    Args:
        run: directory of a fine-tuned run.
        data: the rows, all of which are evaluated.
        task: what they are for; None: what the run was for.
        context: most tokens of a row; 0: as in the run.
        best: the checkpoint with the best evaluation; else the newest.

    Raises:
        MetronormError: as `checkpoint_of` and `prepare`.
        ConfigError: a classifier and rows to write, or the other way round.
    """
    found, config = checkpoint_of(run, best=best)
    if task and (task == "classify") != (config.task == "classify"):
        raise ConfigError(f"task must suit a run of {config.task}", got=task)
    asked = replace(config, data=data, task=task or config.task, context=context or config.context)
    labels = tuple(found.state["labels"])
    rows = read(asked, labels=labels or None)
    adapted = load_adapted(config, labels)
    batches = order_of(asked, rows.prepared.train, rows).once(1)
    before = row_sums(adapted, batches, found.state["precision"])
    put_trained(adapted, found, config)
    after = row_sums(adapted, batches, found.state["precision"])
    return compare(before, after, causal=config.task != "classify")


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
    batches = order_of(config, rows.prepared.train, rows).once(1)
    after = row_sums(Adapted(pretrained, config.adapt, 0), batches)
    figures = compare(after[:1], after, causal=kind == "causal")
    alone = Difference(math.nan, math.nan, math.nan, math.nan)
    return [figure._replace(found=alone._replace(after=figure.found.after)) for figure in figures]


def _perplexity(rows: NDArray[np.float64]) -> float:
    return math.exp(min(ratio(rows), 700.0))


def _written(adapted: Adapted, batch: Mapping[str, Any]) -> NDArray[np.float64]:
    model = adapted.pretrained.model
    hidden, top = features(model, batch), head(model)
    targets = torch.as_tensor(batch["targets"]).to(hidden.device)
    counts = torch.as_tensor(batch["weights"]).to(hidden.device) >= 1
    sums = torch.zeros(len(targets), 3, dtype=torch.float64)
    where = counts.nonzero().flatten()
    for part in where.split(_CHUNK):
        logits = torch.nn.functional.linear(hidden[part], top.weight.to(hidden.dtype), top.bias)
        logits = logits.float() * top.scale
        if top.soft_cap is not None:
            logits = top.soft_cap * (logits / top.soft_cap).tanh()
        right = logits.gather(1, targets[part, None]).squeeze(1)
        sums[part, 0] = (logits.logsumexp(1) - right).double().cpu()
        sums[part, 1] = 1.0
        sums[part, 2] = (logits.argmax(1) == targets[part]).double().cpu()
    ends = np.cumsum(np.asarray(batch["lengths"]))
    return np.add.reduceat(sums.numpy(), ends - np.asarray(batch["lengths"]), axis=0)


def _classified(adapted: Adapted, batch: Mapping[str, Any]) -> NDArray[np.float64]:
    logits, labels = class_logits(adapted.pretrained.model, batch)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return torch.stack([losses, labels, logits.argmax(1)], 1).double().cpu().numpy()
