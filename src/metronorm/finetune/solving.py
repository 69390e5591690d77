"""A classifier's head, solved on its training texts: before the first update, or instead of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from metronorm.finetune.head import Solved, choose_l2, compute_features, put_into, solve
from metronorm.train.precision import autocast
from metronorm.train.sharded import gather_anew
from metronorm.train.task import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from metronorm.finetune.adapting import Adapted
    from metronorm.finetune.packing import Rows
    from metronorm.train.task import Moment

_BATCH = 8  # texts: without a graph they take less memory than a beat that trains


@dataclass
class Head:
    """What several trainings of the same body and texts begin with: solved once, by the first.

    Attributes:
        texts: on how many it is solved: those that the longest of the trainings is going to read.
        solved: the solution, once there is one.
    """

    texts: int
    solved: Solved | None = None


def solving(
    adapted: Callable[[], Adapted],
    rows: Rows,
    class_weights: NDArray[Any] | None,
    shared: Head,
) -> Hook:
    """A hook that solves the head in the first tick.

    | way | when | what follows |
    | --- | --- | --- |
    | `head` | after its update, which it replaces | nothing: it is the optimum |
    | `norm+head` | before the tick | training goes on from there |
    | others | before the tick, if the head is drawn at random | the same |

    A random head sends random gradients into the body, which loses what it had learned (Kumar et
    al., 2022). For the other ways as many texts are enough as the training is going to read.

    Args:
        adapted: gives the classifier.
        rows: its training texts.
        class_weights: (classes,), the weight of each class's texts; None: all 1.
        shared: the head that it begins with.
    """

    @contextlib.contextmanager
    def around(moment: Moment) -> Iterator[None]:
        first, model = moment.tick == 1, adapted()
        way = model.config.way
        wanted = "head" in way or "classifier.weight" in model.pretrained.drawn
        texts = None if "head" in way else shared.texts
        if first and wanted and way != "head":
            if shared.solved is None:
                shared.solved = solve_head(model, rows, class_weights, moment, texts)
            else:
                put_solved(model, shared.solved, moment)
        yield
        if first and way == "head":
            solve_head(model, rows, class_weights, moment, texts)

    return Hook(1, lambda moment: None, around=around)


def solve_head(
    adapted: Adapted,
    rows: Rows,
    class_weights: NDArray[Any] | None,
    moment: Moment,
    texts: int | None = None,
) -> Solved:
    """Put the best head for the features of the training texts into the model.

    Args:
        adapted: a classifier.
        rows: its training texts.
        class_weights: (classes,); None: all 1.
        moment: of the training; the time goes on its record, with the penalty of the head.
        texts: only so many; None: all.

    Returns:
        What was put there.
    """
    model = adapted.pretrained.model
    batches = list(rows.by_length(_BATCH, texts))
    labels = torch.cat([torch.as_tensor(batch["labels"]) for batch in batches])
    device = next(model.parameters()).device
    with moment.clock.phase("features"), autocast(device, moment.precision):
        found = compute_features(moment.model, batches, of=_features)
    weights = None if class_weights is None else torch.as_tensor(class_weights)[labels]
    classes = len(adapted.pretrained.labels)
    with moment.clock.phase("solve"):
        l2 = adapted.config.l2 or choose_l2(found, labels, classes, weights=weights)
        solved = solve(found, labels, classes, l2=l2, weights=weights)
        put_solved(adapted, solved, moment)
    return solved


def put_solved(adapted: Adapted, solved: Solved, moment: Moment) -> None:
    """Put a head into the model, and its penalty on record."""
    gather_anew(moment.model)
    put_into(adapted.pretrained.model, solved)
    moment.clock.log(head_l2=solved.l2)


def _features(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Of the model that trains: FSDP2 gathers parameters when that is called, not a part of it."""
    found: Tensor = model(batch, only_features=True)
    return found
