from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from metronorm.errors import ConfigError, DataError
from metronorm.keras.ticks import Ticks
from metronorm.keras.windows import windows

from .ticking import BACKEND, arrays, close, net

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(12, 5)).astype("float32")
Y = GENERATOR.normal(size=(12, 1)).astype("float32")
ROWS = [slice(0, 5), slice(5, 6), slice(6, 9), slice(9, 12)]
BEATS = [(X[rows], Y[rows]) for rows in ROWS]
RATE = 0.125


def big(epochs: int = 3, **options: Any) -> list[np.ndarray]:
    model = net(keras.optimizers.SGD(RATE, momentum=0.9), **options)
    model.fit(X, Y, batch_size=12, epochs=epochs, verbose=0)
    return arrays(model.trainable_variables)


def in_windows(batches: Any, epochs: int = 3, **options: Any) -> keras.Model:
    model = net(Ticks(RATE, gradient_accumulation_steps=4), **options)
    beats = windows(batches, 4, model=model)
    model.fit(beats, steps_per_epoch=4, epochs=epochs, shuffle=False, verbose=0)
    return model


def farthest(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(np.abs(one - other).max() for one, other in zip(found, expected, strict=True))


def test_unequal_beats_are_the_big_batch_here_and_not_in_keras() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield from BEATS

    model = net(keras.optimizers.SGD(RATE, momentum=0.9, gradient_accumulation_steps=4))
    model.fit(endless(), steps_per_epoch=4, epochs=3, shuffle=False, verbose=0)
    assert farthest(arrays(model.trainable_variables), big()) > 0.01
    assert farthest(arrays(in_windows(BEATS).trainable_variables), big()) < 1e-6


KINDS = ["PyDataset", "DataLoader", "lists"]


@pytest.mark.parametrize("kind", [*KINDS, "tf.data.Dataset"] if BACKEND == "tensorflow" else KINDS)
def test_batches_that_can_be_read_repeatedly(kind: str) -> None:
    class Given(keras.utils.PyDataset):
        passes = 0

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return BEATS[index]

        def on_epoch_end(self) -> None:
            Given.passes += 1

    batches: Any = Given() if kind == "PyDataset" else [list(beat) for beat in BEATS]
    if kind == "tf.data.Dataset":
        import tensorflow as tf

        batches = tf.data.Dataset.from_tensors(BEATS[0])
        for beat in BEATS[1:]:
            batches = batches.concatenate(tf.data.Dataset.from_tensors(beat))
    elif kind == "DataLoader":
        from torch.utils.data import DataLoader

        batches = DataLoader(BEATS, batch_size=None)  # type: ignore[arg-type]
    close(arrays(in_windows(batches).trainable_variables), big(), tolerance=1e-5)
    assert kind != "PyDataset" or Given.passes > 1


def test_windows_are_full_over_the_end_of_a_pass() -> None:
    batches = [(np.full((rows, 1), rows), np.zeros(rows)) for rows in (1, 2, 3)]
    beats = windows(batches, 2)
    assert len(beats) == 4
    assert beats.num_batches is None
    given = [beats[index] for index in range(7)]
    assert [int(x[0, 0]) for x, _, _ in given] == [1, 2, 3, 1, 2, 3, 1]
    shares = [float(weight[0]) for _, _, weight in given[:6]]
    assert shares == pytest.approx([2 / 3, 4 / 3, 6 / 4, 2 / 4, 4 / 5, 6 / 5])
    assert all(weight.shape == y.shape for _, y, weight in given)
    assert beats[6] is given[6]
    with pytest.raises(ConfigError, match="in order, from 0 on; got index 12 after 8 beats"):
        beats[12]
    assert int(beats[0][0][0, 0]) == 1  # a new pass
    assert [int(beats[index][0][0, 0]) for index in range(4)] == [1, 2, 3, 1]


def test_weights_that_a_batch_had_are_kept() -> None:
    weight = GENERATOR.uniform(size=12).astype("float32")
    model = net(keras.optimizers.SGD(RATE, momentum=0.9))
    model.fit(X, Y, batch_size=12, epochs=3, sample_weight=weight, verbose=0)
    batches = [(*beat, weight[rows]) for beat, rows in zip(BEATS, ROWS, strict=True)]
    found = arrays(in_windows(batches).trainable_variables)
    close(found, arrays(model.trainable_variables), tolerance=1e-5)


def test_tokens_that_are_masked() -> None:
    """Keras divides by the tokens that are not masked; so must `count`."""
    tokens = np.array([[1, 2, 3, 4], [1, 0, 0, 0], [2, 3, 0, 0], [4, 0, 0, 0], [3, 1, 2, 0]])
    targets = (tokens * 2) % 5

    def sequences(optimizer: Any) -> keras.Model:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(5, 4, mask_zero=True), keras.layers.Dense(5)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=optimizer, loss=loss)
        return model

    whole = sequences(keras.optimizers.SGD(RATE, momentum=0.9))
    whole.fit(tokens, targets, batch_size=5, epochs=3, verbose=0)
    found = []
    for count in (None, lambda batch: int((batch[0] != 0).sum())):
        model = sequences(Ticks(RATE, gradient_accumulation_steps=2))
        batches: list[Any] = [(tokens[:2], targets[:2]), (tokens[2:], targets[2:])]
        if BACKEND == "torch":  # Keras multiplies the weights by the mask in place
            batches = [(*batch, np.ones(batch[1].shape)) for batch in batches]
        beats = windows(batches, 2, count, model=model)
        model.fit(beats, steps_per_epoch=2, epochs=3, shuffle=False, verbose=0)
        found.append(farthest(arrays(model.trainable_variables), arrays(whole.trainable_variables)))
    assert found[1] < 1e-6 < 1e-4 < found[0]


def test_several_outputs() -> None:
    def two(optimizer: Any) -> keras.Model:
        keras.utils.set_random_seed(0)
        given = keras.layers.Input((5,))
        outputs = {"a": keras.layers.Dense(1, name="a")(given)}
        outputs["b"] = keras.layers.Dense(3, activation="softmax", name="b")(given)
        model = keras.Model(given, outputs)
        model.compile(
            optimizer=optimizer, loss={"a": "mse", "b": "sparse_categorical_crossentropy"}
        )
        return model

    targets = {"a": Y, "b": np.arange(12) % 3}
    whole = two(keras.optimizers.SGD(RATE, momentum=0.9))
    whole.fit(X, targets, batch_size=12, epochs=3, verbose=0)
    model = two(Ticks(RATE, gradient_accumulation_steps=4))
    batches = [(X[rows], {name: y[rows] for name, y in targets.items()}) for rows in ROWS]
    model.fit(
        windows(batches, 4, model=model), steps_per_epoch=4, epochs=3, shuffle=False, verbose=0
    )
    found = arrays(model.trainable_variables)
    close(found, arrays(whole.trainable_variables), tolerance=1e-5)


def test_metrics_are_right_and_the_reported_loss_is_of_weighted_beats() -> None:
    model = net(keras.optimizers.SGD(0.0), metrics=["mse"])
    right = model.evaluate(X, Y, verbose=0, return_dict=True)["mse"]
    model = net(Ticks(0, gradient_accumulation_steps=4), metrics=["mse"])
    beats = windows(BEATS, 4, model=model)
    history = model.fit(beats, steps_per_epoch=4, shuffle=False, verbose=0).history
    assert history["mse"] == pytest.approx([right], rel=1e-5)
    means = [float(net("sgd").evaluate(x, y, verbose=0)) for x, y in BEATS]
    sizes = [len(x) for x, _ in BEATS]
    off = sum(4 * n * n / 12 * mean for n, mean in zip(sizes, means, strict=True)) / 12
    assert history["loss"] == pytest.approx([off], rel=1e-5)
    assert abs(off / right - 1) > 0.05


@pytest.mark.skipif(BACKEND != "tensorflow", reason="counts the traces of tf.function")
def test_sizes_cause_no_tracing() -> None:
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            traces.append(1)
            return inputs

    model = keras.Sequential([Counting(), keras.layers.Dense(1)])
    model.compile(optimizer=Ticks(RATE, gradient_accumulation_steps=4), loss="mse")
    beats = windows(BEATS, 4, model=model)
    model.fit(beats, steps_per_epoch=1, shuffle=False, verbose=0)
    once = len(traces)
    model.fit(beats, steps_per_epoch=8, epochs=3, shuffle=False, verbose=0)
    assert len(traces) == once


@pytest.mark.parametrize("micro_batches", [0, -1, 2.0, True])
def test_micro_batches_that_cannot_work(micro_batches: Any) -> None:
    with pytest.raises(ConfigError, match="micro_batches must be a whole number of at least 1"):
        windows(BEATS, micro_batches)


def test_micro_batches_of_numpy_are_counted() -> None:
    beats = windows(BEATS, np.int64(3))
    assert len(beats) == 6
    assert type(beats.micro_batches) is int


def test_arguments_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="count must be a function of a batch; got 3"):
        windows(BEATS, 2, 3)  # type: ignore[arg-type]
    for once in (iter(BEATS), (beat for beat in BEATS), 3):
        with pytest.raises(ConfigError, match="iterated over repeatedly"):
            windows(once, 2)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="there must be batches"):
        windows([], 2)

    class Empty:
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(DataError, match="there must be batches"):
        windows(Empty(), 2)[0]


class Once:
    """Batches that iter() does not restart."""

    def __init__(self) -> None:
        self.beats = iter(BEATS)

    def __iter__(self) -> Iterator[Any]:
        return self.beats

    def __len__(self) -> int:
        return len(BEATS)


def test_batches_that_cannot_begin_again_are_an_error_in_the_second_pass() -> None:
    message = "can begin again only where their batches can; got a Once that has ended; try: a list"
    beats = windows(Once(), 4)
    assert len([beats[index] for index in range(4)]) == 4
    with pytest.raises(DataError, match=message):
        beats[4]
    beats = windows(Once(), 3)
    beats[0]
    with pytest.raises(DataError, match=message):  # in the middle of a window
        beats[3]
    model = net(Ticks(RATE, gradient_accumulation_steps=4))
    beats = windows(Once(), 4, model=model)
    with pytest.raises(Exception, match=message):  # TensorFlow raises its own error
        model.fit(beats, steps_per_epoch=4, epochs=2, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (X, "must be .x, y. or .x, y, sample_weight.; got ndarray"),
        ((X,), "got tuple of 1"),
        ({"x": X}, "got dict"),
        ((X, None), "must have targets, .* got none"),
        ((X, 3.0), "must have targets, .* got float"),
    ],
    ids=["array", "no targets", "dict", "None", "number"],
)
def test_batches_that_cannot_work(batch: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        windows([batch], 1)[0]


@pytest.mark.parametrize("count", [-1, 0.5, float("nan"), None, "two"])
def test_counts_that_cannot_work(count: Any) -> None:
    with pytest.raises(DataError, match="count must give a whole number"):
        windows(BEATS, 2, lambda batch: count)[0]


def test_a_window_of_nothing() -> None:
    with pytest.raises(DataError, match="at least one example or token; got 0 in 2 beats"):
        windows(BEATS, 2, lambda batch: 0)[0]


def test_a_model_that_would_not_make_it_exact() -> None:
    four = Ticks(gradient_accumulation_steps=4)
    with pytest.raises(ConfigError, match="must be compiled"):
        windows(BEATS, 4, model=keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ConfigError, match="micro_batches=3 and gradient_accumulation_steps=4"):
        windows(BEATS, 3, model=net(four))
    for reduction in ("sum", "mean_with_sample_weight", None):
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        with pytest.raises(ConfigError, match=f"MeanSquaredError.reduction={reduction!r}"):
            windows(BEATS, 4, model=net(Ticks(gradient_accumulation_steps=4), loss=loss))
