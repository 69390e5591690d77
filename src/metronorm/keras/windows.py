"""Windows for Keras: the beats of every tick, weighted so that they make the one big batch.

Keras divides the loss of every beat by the beat's own size, and averages the beats' gradients. If
beats differ in size, that is not the gradient of the big batch. The weight of a beat depends on the
sizes of all beats of its tick, so a whole window is read before its first beat is handed out.
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

EXACT = ("sum_over_batch_size", "mean")  # the reductions that divide by the counted number


class _Windows(keras.utils.PyDataset):  # type: ignore[misc]
    """The dataset that `windows` returns: batches without end, for `fit`.

    The last beats that were handed out are kept, because Keras reads the first batches, begins
    again at 0, and may read ahead:

    | index asked for | then |
    | --- | --- |
    | among the kept beats | this beat, again |
    | the one after the kept beats | a new window is read and kept; the older window is dropped |
    | 0, and it is not kept any more | all begins again from the first batch |
    | any other | ConfigError |
    """

    def __init__(
        self, batches: Iterable[Any], micro_batches: int, count: Callable[[Any], int]
    ) -> None:
        super().__init__()
        self.micro_batches = micro_batches
        self._batches, self._count = batches, count
        self._lock = threading.Lock()
        self._first = 0  # the index of the first kept beat
        self._kept: list[Batch] = []
        self._has_ended_once = False  # whether a whole pass over the batches has succeeded
        self._source = self._endless()

    @property
    def num_batches(self) -> None:
        """None: there is no end."""
        return

    def __len__(self) -> int:
        """The beats of one pass over the batches, up to whole windows; for `steps_per_epoch`."""
        windows = -(-len(self._batches) // self.micro_batches)  # type: ignore[arg-type]
        return windows * self.micro_batches

    def __getitem__(self, index: int) -> Batch:
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
        dataset = batches if isinstance(batches, keras.utils.PyDataset) else None
        while True:
            empty = True
            if dataset is not None:
                dataset.on_epoch_begin()
            for batch in batches:
                empty = False
                yield batch
            if dataset is not None:
                dataset.on_epoch_end()  # where many datasets shuffle
            if empty:
                raise ended(batches) if self._has_ended_once else no_batches()
            self._has_ended_once = True

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
    """Count the examples of a batch, `(x, y)` or with weights: the rows of its targets."""
    return int(leaves(batch[1])[0].shape[0])


def leaves(structure: Any) -> list[Any]:
    """Return the tensors of a nested structure, without None."""
    found: list[Any] = [leaf for leaf in tree.flatten(structure) if leaf is not None]
    return found


def as_tuple(batch: Any) -> Batch:
    """Return a batch as a tuple `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        DataError: it is not such a batch, or its targets are not arrays of examples.
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
    """Return the error for batches that are empty."""
    return DataError("there must be batches to make windows of", got="none")


def ended(batches: object) -> DataError:
    """Return the error for batches that have ended and cannot begin again."""
    return DataError(
        "windows can begin again only where their batches can",
        got=f"a {type(batches).__name__} that has ended",
        fix="a list, a DataLoader or anything else that iter() restarts",
    )


def length(batches: Any) -> int | None:
    """Return the number of batches, or None if they have no length."""
    try:
        return len(batches)
    except TypeError:  # also from a tf.data.Dataset that has no end, or no known end
        return None


def check_model(model: Any, micro_batches: int) -> None:
    """Check that a model makes of a window what it makes of the big batch.

    Raises:
        ConfigError: the model is not compiled, its optimizer accumulates another number of beats,
            or a loss is not a mean over its batch.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ConfigError("the model must be compiled", got="none", fix="model.compile(...)")
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # inside LossScaleOptimizer
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


def weighted(batch: Batch, factor: float) -> Batch:
    """Return a batch with its sample weights multiplied by `factor`; without weights, `factor`.

    New weights have the shape (batch, 1, ...), with as many axes as the targets. Keras expands it
    to the shape of any loss per example, step or pixel, while it would align (batch,) with the last
    axis. On torch, Keras multiplies weights by a mask in place, so there they must have the mask's
    shape.
    """
    x, y, *given = batch
    dtype = keras.config.floatx()
    if given and given[0] is not None:

        def times(weight: Any) -> Any:
            return None if weight is None else np.asarray(weight, dtype) * np.asarray(factor, dtype)

        return x, y, tree.map_structure(times, given[0])

    def full(target: Any) -> Any:
        if target is None:
            return None
        return np.full((target.shape[0], *[1] * (len(target.shape) - 1)), factor, dtype)

    return x, y, tree.map_structure(full, y)


def windows(
    batches: Iterable[Any],
    micro_batches: int,
    count: Callable[[Any], int] | None = None,
    *,
    model: keras.Model | None = None,
) -> _Windows:
    """Make batches for `fit`, weighted so that a window of `micro_batches` is the one big batch.

        beats = windows(batches, micro_batches=4, model=model)
        model.fit(beats, steps_per_epoch=len(beats), shuffle=False)

    Every sample weight is `micro_batches * n / N`, times the weight that the batch had; n is the
    count of the beat, N that of its window. `Ticks` divides by `gradient_accumulation_steps`, which
    must be `micro_batches`. The result is the gradient of the big batch's mean loss, to rounding.

    Args:
        batches: batches `(x, y)` or `(x, y, sample_weight)` that can be iterated over repeatedly: a
            list, a `tf.data.Dataset`, a `PyDataset`, a torch `DataLoader`. The first batches of the
            next pass complete the last window of this pass, so every window is full.
        micro_batches: the number of beats in a window.
        count: a function that returns the number that a batch's loss is divided by; by default the
            number of examples. For sequences with masked padding it is the number of tokens that
            are not masked.
        model: a compiled model; windows are checked to be exact for it.

    Returns:
        A `PyDataset` without end: give `fit` `steps_per_epoch`. Its `len` is one pass over the
        batches, up to whole windows, if they have a length. Every `fit` begins a new pass.

    Windows are exact for losses with the reduction "sum_over_batch_size" (Keras' default) or "mean"
    that divide by `count`. Penalties on weights that a layer adds are exact too; batch
    normalization and the like see single beats, as always. Under a tf.distribute strategy the
    replicas must get equal parts of every beat, from a `tf.data.Dataset` made of them: when fed
    from Python, two replicas sometimes differed from one, with Keras' SGD as well.

    On torch, batches with masked steps need a sample weight of the mask's shape; ones are enough.

    The epoch's `loss` that Keras reports is that of the weighted beats, weighted by size again, so
    it is wrong where sizes differ. `metrics=` are not weighted and are right.

    Raises:
        ConfigError: an argument cannot work, or the windows would not be exact for the model.
        DataError: while reading: there are no batches, the batches cannot begin again for a second
            pass, a window counts 0, or a batch has no targets.
    """
    micro_batches = checked_count("micro_batches", micro_batches)
    if count is not None and not callable(count):
        raise ConfigError("count must be a function of a batch", got=repr(count))
    if not hasattr(batches, "__iter__") or hasattr(batches, "__next__"):
        raise ConfigError(
            "batches must be something that can be iterated over repeatedly",
            got=type(batches).__name__,
            fix="a list, a tf.data.Dataset, a PyDataset or a DataLoader",
        )
    if length(batches) == 0:
        raise no_batches()
    if model is not None:
        check_model(model, micro_batches)
    return _Windows(batches, micro_batches, count or examples)
