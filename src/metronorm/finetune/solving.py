"""A classifier's head, solved on its training texts: before the first update, or instead of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

from metronorm.finetune.head import choose_l2, compute_features, put_into, solve
from metronorm.train.precision import autocast
from metronorm.train.task import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from metronorm.finetune.adapting import Adapted
    from metronorm.finetune.packing import Rows
    from metronorm.train.task import Moment

_BATCH = 32  # texts


def solving(adapted: Callable[[], Adapted], rows: Rows, class_weights: NDArray[Any] | None) -> Hook:
    """A hook that solves the head in the first tick.

    | way | when | what follows |
    | --- | --- | --- |
    | `norm+head` | before the tick | training goes on from there |
    | `head` | after its update, which it replaces | nothing: it is the optimum |

    Args:
        adapted: gives the classifier.
        rows: its training texts.
        class_weights: (classes,), the weight of each class's texts; None: all 1.
    """

    @contextlib.contextmanager
    def around(moment: Moment) -> Iterator[None]:
        first, model = moment.tick == 1, adapted()
        instead = model.config.way == "head"
        if first and not instead:
            solve_head(model, rows, class_weights, moment)
        yield
        if first and instead:
            solve_head(model, rows, class_weights, moment)

    return Hook(1, lambda moment: None, around=around)


def solve_head(
    adapted: Adapted, rows: Rows, class_weights: NDArray[Any] | None, moment: Moment
) -> None:
    """Put the best head for the features of all training texts into the model.

    Args:
        adapted: a classifier.
        rows: its training texts.
        class_weights: (classes,); None: all 1.
        moment: of the training; the time goes on its record, with the penalty of the head.
    """
    model = adapted.pretrained.model
    batches = list(rows.by_length(_BATCH))
    labels = torch.cat([torch.as_tensor(batch["labels"]) for batch in batches])
    device = next(model.parameters()).device
    with moment.clock.phase("features"), autocast(device, moment.precision):
        found = compute_features(model, batches)
    weights = None if class_weights is None else torch.as_tensor(class_weights)[labels]
    classes = len(adapted.pretrained.labels)
    with moment.clock.phase("solve"):
        l2 = adapted.config.l2 or choose_l2(found, labels, classes, weights=weights)
        solved = solve(found, labels, classes, l2=l2, weights=weights)
        put_into(model, solved)
    moment.clock.log(head_l2=l2)
