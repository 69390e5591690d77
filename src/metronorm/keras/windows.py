"""Windows for Keras: the beats of every tick, weighted so that they make the one big batch.

Keras divides the loss of every beat by the beat's own size, and averages the beats' gradients. As
soon as beats differ in size that is not the gradient of the big batch. How large a beat's share
must be is known when all beats of its tick are: so a window is read whole before it is handed on.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import tree

from metronorm.errors import ConfigError, DataError
from metronorm.keras.checks import checked_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Batch = tuple[Any, ...]

EXACT = ("sum_over_batch_size", "mean")  # reductions that divide by what is counted


class _Windows(keras.utils.PyDataset):  # type: ignore[misc]
    """What `windows` returns: batches without end, for `fit`."""

    def __init__(
        self, batches: Iterable[Any], micro_batches: int, count: Callable[[Any], int]
    ) -> None:
        super().__init__()
        self.micro_batches = micro_batches
        self._batches, self._count = batches, count
        self._lock = threading.Lock()
        self._first = 0  # index of what is kept first
        self._kept: list[Batch] = []
        self._again = False  # whether there was a pass before
        self._source = self._endless()

    @property
    def num_batches(self) -> None:
        """Not known: there is no end."""
        return

    def __len__(self) -> int:
        """Beats of one pass over the batches, up to whole windows; for `steps_per_epoch`."""
        return -(-len(self._batches) // self.micro_batches) * self.micro_batches  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Batch:
        # Keras looks at the first batches and begins again, and TensorFlow reads ahead: what was
        # handed out last is kept for those who come for it a second time.
        with self._lock:
            if index == 0 and self._first > 0:
                self._first, self._kept, self._source = 0, [], self._endless()
            if index == self._first + len(self._kept):
                extra = max(0, len(self._kept) - self.micro_batches)
                self._kept = self._kept[extra:] + self._next_window()
                self._first += extra
            if not self._first <= index < self._first + len(self._kept):
                raise ConfigError(
                    "windows are read in order, from 0 on",
                    got=f"index {index} after {self._first + len(self._kept)} beats",
                    fix="workers=1",
                )
            return self._kept[index - self._first]

    def _endless(self) -> Iterator[Any]:
        batches = self._batches
        told = batches if isinstance(batches, keras.utils.PyDataset) else None
        while True:
            empty = True
            if told is not None:
                told.on_epoch_begin()
            for batch in batches:
                empty = False
                yield batch
            if told is not None:
                told.on_epoch_end()  # many shuffle here
            if empty:
                raise ended(batches) if self._again else no_batches()
            self._again = True

    def _next_window(self) -> list[Batch]:
        beats = [as_tuple(next(self._source)) for _ in range(self.micro_batches)]
        counts = [self._counted(beat) for beat in beats]
        total = sum(counts)
        if total == 0:
            raise DataError(
                "a window must hold at least one example or token", got=f"0 in {len(beats)} beats"
            )
        return [
            weighted(beat, self.micro_batches * count / total)
            for beat, count in zip(beats, counts, strict=True)
        ]

    def _counted(self, beat: Batch) -> int:
        count = self._count(beat)
        try:
            whole = int(count)
        except (TypeError, ValueError, OverflowError):
            whole = -1
        if whole != count or whole < 0:
            raise DataError("count must give a whole number, of 0 or more", got=repr(count))
        return whole


def examples(batch: Any) -> int:
    """How many examples a batch `(x, y)` or `(x, y, sample_weight)` holds: rows of its targets."""
    return int(leaves(batch[1])[0].shape[0])


def leaves(structure: Any) -> list[Any]:
    """Tensors of a structure, without what is None."""
    found: list[Any] = [leaf for leaf in tree.flatten(structure) if leaf is not None]
    return found


def as_tuple(batch: Any) -> Batch:
    """A batch as a tuple of inputs, targets and perhaps weights.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise DataError(
            "a batch must be (x, y) or (x, y, sample_weight)", got=type(batch).__name__ + size
        )
    targets = leaves(batch[1])
    if not targets or not all(len(getattr(target, "shape", ())) for target in targets):
        raise DataError(
            "a batch must have targets, as arrays with an axis for the examples",
            got=", ".join(type(target).__name__ for target in targets) or "none",
        )
    return tuple(batch)


def no_batches() -> DataError:
    """What to say of batches that end before the first."""
    return DataError("there must be batches to make windows of", got="none")


def ended(batches: object) -> DataError:
    """What to say of batches that have ended and cannot begin again."""
    return DataError(
        "windows can begin again only where their batches can",
        got=f"a {type(batches).__name__} that has ended",
        fix="a list, a DataLoader or anything else that iter() begins anew",
    )


def length(batches: Any) -> int | None:
    """How many batches there are, if they know."""
    try:
        return len(batches)
    except TypeError:  # of a tf.data.Dataset too, where it has no end or does not know it
        return None


def check_model(model: Any, micro_batches: int) -> None:
    """Refuse a model that would not make a window the big batch.

    Raises:
        ConfigError: it is not compiled, accumulates another number of beats, or has a loss that is
            not a mean over what it is computed of.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ConfigError("the model must be compiled", got="none", fix="model.compile(...)")
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    steps = getattr(optimizer, "gradient_accumulation_steps", None) or 1
    if steps != micro_batches:
        raise ConfigError(
            "a window must have as many beats as the optimizer accumulates",
            got=f"micro_batches={micro_batches} and gradient_accumulation_steps={steps}",
        )
    for loss in tree.flatten(getattr(model, "loss", None)):
        reduction = getattr(loss, "reduction", EXACT[0])
        if reduction not in EXACT:
            raise ConfigError(
                "windows are exact for losses that are means over their batch",
                got=f"{type(loss).__name__}(reduction={reduction!r})",
                fix=f'reduction="{EXACT[0]}"',
            )


def weighted(batch: Batch, share: float) -> Batch:
    """A batch whose sample weights are `share` times what they were; where it had none, `share`.

    Then they are of shape (batch, 1, ...) with as many axes as the targets: Keras brings those to
    the shape of any loss per example, step or pixel, where it would put (batch,) to the last axis.
    On torch it multiplies them by a mask in place, for which they must have the mask's shape.
    """
    x, y, *given = batch
    dtype = keras.config.floatx()
    if given and given[0] is not None:

        def times(weight: Any) -> Any:
            return None if weight is None else np.asarray(weight, dtype) * np.asarray(share, dtype)

        return x, y, tree.map_structure(times, given[0])

    def full(target: Any) -> Any:
        if target is None:
            return None
        return np.full((target.shape[0], *[1] * (len(target.shape) - 1)), share, dtype)

    return x, y, tree.map_structure(full, y)


def windows(
    batches: Iterable[Any],
    micro_batches: int,
    count: Callable[[Any], int] | None = None,
    *,
    model: keras.Model | None = None,
) -> _Windows:
    """Batches for `fit`, weighted so that a window of `micro_batches` is the one big batch.

        beats = windows(batches, micro_batches=4, model=model)
        model.fit(beats, steps_per_epoch=len(beats), shuffle=False)

    Every sample weight is `micro_batches * n / N` (n: counted in the beat, N: in its window), times
    the weight the batch had. `Ticks` divides by `gradient_accumulation_steps`, which must be
    `micro_batches`; what comes out is the gradient of the big batch's mean loss, to rounding.

    Args:
        batches: `(x, y)` or `(x, y, sample_weight)`, to iterate over again and again: a list, a
            `tf.data.Dataset`, a `PyDataset`, a torch `DataLoader`. The first window of the next
            pass completes the last one of this pass, so every window is full.
        micro_batches: beats in a window.
        count: of a batch, what its loss is divided by; the number of examples by default. For
            sequences whose padding is masked, the tokens that are not.
        model: compiled; to check that it is trained so.

    Returns:
        A `PyDataset` without end: give `fit` `steps_per_epoch`. Its `len` is one pass over the
        batches, up to whole windows, if they have a length. Every `fit` begins a new pass.

    Exact for losses with the reduction "sum_over_batch_size" (what Keras makes of a name) or "mean"
    whose divisor is `count`. Of the losses that a layer adds, penalties on weights are exact;
    batch normalization and the like see single beats, as always. Under a tf.distribute strategy the
    replicas must get equal parts of every beat, from a `tf.data.Dataset` made of them: fed from
    Python, two replicas were now and then seen to end elsewhere than one, with Keras' SGD as well.

    On torch, batches whose steps are masked need a sample weight of the mask's shape; ones will do.

    The epoch's `loss` that Keras reports is that of the weighted beats, again weighted by size: it
    is off where sizes differ. `metrics=` are not weighted, and right.

    Raises:
        ConfigError: arguments that cannot work, or a model that would not make it exact.
        DataError: from reading: no batches, a second pass of batches that cannot begin again, a
            window with nothing in it, batches without targets.
    """
    micro_batches = checked_count("micro_batches", micro_batches)
    if count is not None and not callable(count):
        raise ConfigError("count must be a function of a batch", got=repr(count))
    if not hasattr(batches, "__iter__") or hasattr(batches, "__next__"):
        raise ConfigError(
            "batches must be something to iterate over again and again",
            got=type(batches).__name__,
            fix="a list, a tf.data.Dataset, a PyDataset or a DataLoader",
        )
    if length(batches) == 0:
        raise no_batches()
    if model is not None:
        check_model(model, micro_batches)
    return _Windows(batches, micro_batches, count or examples)
