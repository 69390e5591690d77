"""Train the classifier of many tutorials on Fashion-MNIST, with layer normalization.

    apt-get install dataset-fashion-mnist
    pip install 'metronorm[keras,train,analysis]' tensorflow
    python recipes/keras_classifier.py --epochs 100 --seeds 3 --runs runs/keras_classifier

The model is Dense 128, ReLU, normalization, Dense 64, ReLU, normalization, Dense 10. It is trained
on TensorFlow without normalization, with ours, with Keras' and with the formula written out; and in
torch. Each training is a run, which has the time, loss and accuracy of every tick (update). The
table and the curves in `RUNS/curves.html` are made from these runs. Read `main` first.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # before Keras is imported
with contextlib.suppress(ImportError):
    import triton  # noqa: F401  torch loads it, and after TensorFlow this ends the process

import keras
import numpy as np
import plotly.graph_objects as go
import tensorflow as tf
import tyro
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table

from metronorm.clock import check_free
from metronorm.data.images import CLASSES, fashion_mnist
from metronorm.errors import ConfigError, MetronormError
from metronorm.keras import LayerNormalization, TickCallback, Ticks
from metronorm.runs import open_run
from metronorm.train import Hook, Moment, OptimizerConfig, Task, TrainConfig, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from numpy.typing import NDArray

Variant = Literal["without", "metronorm", "keras", "formula", "torch"]

WIDTHS = (128, 64)
EPSILON = 1e-3  # Keras' default, for all variants
MOMENTUM = 0.9
COLOURS: dict[Variant, str] = {
    "without": "#999999",
    "metronorm": "#0072b2",
    "keras": "#e69f00",
    "formula": "#009e73",
    "torch": "#cc79a7",
}


@dataclass(frozen=True)
class Arguments:
    """Options; the defaults gave the figures in docs/keras.md."""

    data: Path | None = None
    """Folder with the four idx files, or with the unpacked package. None: the installed package."""
    runs: Path = Path("runs/keras_classifier")
    """Folder for the runs: VARIANT-SEED for every variant and seed."""
    variants: tuple[Variant, ...] = tuple(COLOURS)
    epochs: int = 100
    seeds: int = 3
    batch_size: int = 256
    learning_rate: float = 0.1
    """Learning rate of the first tick; it falls to zero along half a cosine."""
    weight_decay: float = 0.01
    """Every tick shrinks all parameters by the learning rate times this number."""

    def __post_init__(self) -> None:
        for name in ("epochs", "seeds", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1", got=str(getattr(self, name)))


def main(arguments: Arguments) -> None:
    """Train every variant with every seed, then print a table and draw the curves."""
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            "this recipe is written for TensorFlow",
            got=f"KERAS_BACKEND={keras.backend.backend()}",
            fix="KERAS_BACKEND=tensorflow",
        )
    data = load(arguments.data)
    planned = [(v, seed) for seed in range(arguments.seeds) for v in arguments.variants]
    for variant, seed in planned:
        check_free(arguments.runs / f"{variant}-{seed}")
    for variant, seed in planned:
        directory = arguments.runs / f"{variant}-{seed}"
        train_one = train_torch if variant == "torch" else train_keras
        print(f"{directory} ...", flush=True)
        train_one(directory, data, variant, seed, arguments)
    folders = [path for name in COLOURS for path in sorted(arguments.runs.glob(f"{name}-*"))]
    found = [training for training in map(read, folders) if training is not None]
    Console().print(table(found))
    draw(found, arguments.runs / "curves.html")
    print(f"curves: {arguments.runs / 'curves.html'}; more: metronorm show {arguments.runs}/*-0")


# --- data -----------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Pixels, float32 (examples, 784), with mean 0 and variance 1 over the training images."""

    images: NDArray[np.float32]
    labels: NDArray[np.int32]  # (examples,)
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int32]

    def ticks(self, arguments: Arguments) -> int:
        """Return the number of ticks in the whole training."""
        return -(-len(self.images) // arguments.batch_size) * arguments.epochs


def load(folder: Path | None) -> Data:
    """Load the images and labels, and normalize the pixels."""
    images, labels, test_images, test_labels = fashion_mnist(folder)
    pixels, test_pixels = (
        each.reshape(len(each), -1).astype(np.float32) for each in (images, test_images)
    )
    mean, deviation = pixels.mean(dtype=np.float64), max(1.0, pixels.std())
    for each in (pixels, test_pixels):
        each -= mean
        each /= deviation
    return Data(pixels, labels.astype(np.int32), test_pixels, test_labels.astype(np.int32))


# --- TensorFlow -----------------------------------------------------------------------------------


class Classifier(keras.Sequential):
    """Reports the loss and accuracy of the batch; Keras reports those of the epoch so far."""

    def train_step(self, data: Any) -> Any:
        """Reset the metrics before the step; compiled with it, this costs almost nothing."""
        self.reset_metrics()
        return super().train_step(data)


class Formula(keras.layers.Layer):
    """Layer normalization as tutorials write it, with their mistake corrected.

    They often leave out `keepdims=True`. Then mean and variance are (batch,), which cannot be
    subtracted from (batch, width); if both sizes are equal, rows are confused with columns.
    """

    def build(self, shape: tuple[int, ...]) -> None:
        """Make scale and shift, (width,) each."""
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones")
        self.shift = self.add_weight(shape=shape[-1:], initializer="zeros")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Normalize inputs, (batch, width)."""
        mean, variance = tf.nn.moments(inputs, axes=[-1], keepdims=True)  # (batch, 1) each
        return self.scale * (inputs - mean) / tf.sqrt(variance + EPSILON) + self.shift


def keras_model(variant: Variant, inputs: int) -> Classifier:
    """Make the model on TensorFlow: from (batch, inputs) to probabilities, (batch, 10)."""
    make = {
        "metronorm": lambda: LayerNormalization(epsilon=EPSILON),
        "keras": lambda: keras.layers.LayerNormalization(epsilon=EPSILON),
        "formula": Formula,
    }.get(variant)
    model = Classifier([keras.layers.Input((inputs,))])
    for width in WIDTHS:
        model.add(keras.layers.Dense(width, activation="relu"))
        if make is not None:
            model.add(make())
    model.add(keras.layers.Dense(CLASSES, activation="softmax"))
    return model


def train_keras(
    directory: Path, data: Data, variant: Variant, seed: int, arguments: Arguments
) -> None:
    """Train a variant on TensorFlow; the run is in `directory`."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = keras_model(variant, data.images.shape[1])
    rate = keras.optimizers.schedules.CosineDecay(arguments.learning_rate, data.ticks(arguments))
    model.compile(
        optimizer=Ticks(rate, momentum=MOMENTUM, weight_decay=arguments.weight_decay),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        batches(data, seed, arguments.batch_size),
        shuffle=False,  # the batches are shuffled already
        epochs=arguments.epochs,
        validation_data=(data.test_images, data.test_labels),
        validation_batch_size=len(data.test_images),
        callbacks=[TickCallback(directory, config=config(variant, seed, arguments))],
        verbose=0,
    )


def batches(data: Data, seed: int, size: int) -> tf.data.Dataset:
    """Make batches in a new order for each epoch.

    If `fit` gets arrays on TensorFlow and a seed is set, every epoch has the same order.
    """
    images, labels = tf.constant(data.images), tf.constant(data.labels)
    order = tf.data.Dataset.range(len(data.images)).shuffle(len(data.images), seed)
    parts = order.batch(size).map(lambda part: (tf.gather(images, part), tf.gather(labels, part)))
    return parts.prefetch(2)


def config(variant: Variant, seed: int, arguments: Arguments) -> dict[str, Any]:
    """Return the config of a training for `run.json`."""
    options = asdict(arguments)
    names = ("epochs", "batch_size", "learning_rate", "weight_decay")
    return {"variant": variant, "seed": seed} | {name: options[name] for name in names}


# --- torch ----------------------------------------------------------------------------------------


def torch_model(inputs: int) -> torch.nn.Sequential:
    """Make the model in torch, initialized as in Keras: (batch, inputs) to logits, (batch, 10)."""
    from torch import nn

    from metronorm.norm import LayerNorm

    layers: list[nn.Module] = []
    for width in WIDTHS:
        layers += [nn.Linear(inputs, width), nn.ReLU(), LayerNorm(width, eps=EPSILON)]
        inputs = width
    model = nn.Sequential(*layers, nn.Linear(inputs, CLASSES))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def train_torch(
    directory: Path, data: Data, variant: Variant, seed: int, arguments: Arguments
) -> None:
    """Train the same model in torch; the run is in `directory`."""
    epoch = data.ticks(arguments) // arguments.epochs
    outcome = train(
        torch_task(data, epoch),
        TorchConfig(
            variant=variant,
            epochs=arguments.epochs,
            seed=seed,
            optimizer=OptimizerConfig(
                name="ticks",
                learning_rate=arguments.learning_rate,
                momentum=MOMENTUM,
                weight_decay=arguments.weight_decay,
                warmup=0.0,
                final=0.0,
                clip=0.0,
            ),
            ticks=data.ticks(arguments),
            batch_size=arguments.batch_size,
            evaluate_every=epoch,
            checkpoint_every=data.ticks(arguments),
            precision="fp32",
            allocator="system",
            device="cpu",
        ),
        directory,
    )
    if outcome.signal:  # the loop has saved a checkpoint; no other training is to begin
        sys.exit(128 + outcome.signal)


@dataclass(frozen=True)
class TorchConfig(TrainConfig):
    """A training's options, and what the runs of this recipe are told apart by."""

    variant: Variant = "torch"
    epochs: int = 100


def torch_task(data: Data, epoch: int) -> Callable[[TorchConfig], Task]:
    """Make the task; an epoch has `epoch` ticks."""
    import torch
    from torch.nn.functional import cross_entropy

    images, test_images = torch.from_numpy(data.images), torch.from_numpy(data.test_images)
    labels = torch.from_numpy(data.labels).long()
    test_labels = torch.from_numpy(data.test_labels).long()
    of_the_batch: dict[str, torch.Tensor] = {}

    def measure(model: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        logits, targets = model(batch[0]), batch[1]
        hits = (logits.argmax(1) == targets).sum()
        return {"loss": cross_entropy(logits, targets, reduction="sum"), "accuracy": hits}

    def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        sums = measure(model, batch)
        of_the_batch["accuracy"] = sums["accuracy"] / len(batch[1])
        return sums["loss"]

    def log(moment: Moment) -> None:
        moment.clock.log(epoch=(moment.tick - 1) // epoch, **of_the_batch)
        if moment.tick % epoch == 0:  # by the names that Keras has for them
            moment.clock.log(**{f"val_{name}": value for name, value in moment.measures.items()})

    return lambda config: Task(
        model=lambda: torch_model(data.images.shape[1]),
        batches=Epochs(images, labels, config.batch_size),
        loss=loss,
        count=lambda batch: len(batch[1]),
        measure=measure,
        validation=lambda: [(test_images, test_labels)],
        groups=lambda model, config: [
            {"params": list(model.parameters()), "weight_decay": config.optimizer.weight_decay}
        ],
        hooks=[Hook(1, log)],
        unit="images",
    )


class Epochs:
    """Batches in a new order whenever they are begun; as in Keras, the last one may be smaller."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, size: int) -> None:
        self.images, self.labels, self.size = images, labels, size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        for part in torch.randperm(len(self.images)).split(self.size):
            yield self.images[part], self.labels[part]

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)


# --- results --------------------------------------------------------------------------------------


class Training(NamedTuple):
    """The results of one run."""

    variant: Variant
    seed: int
    epochs: int
    accuracy: float  # on the test images, after the last epoch
    loss: float  # on the test images, after the last epoch
    tick_ms: float  # the median
    seconds: float  # the whole training, with evaluations
    curve: list[tuple[float, ...]]  # tick, loss, accuracy, milliseconds: means over 300 stretches
    tests: list[list[float]]  # the ticks with an evaluation, and their accuracies


def read(directory: Path) -> Training | None:
    """Read the figures and curves of a run of this recipe; None if it is not finished."""
    run = open_run(directory)
    ticks = run.ticks()
    variant, seed, epochs = (run.info.config[name] for name in ("variant", "seed", "epochs"))
    if "val_accuracy" not in ticks.metrics:
        return None
    [(evaluations, accuracy, loss, tick_ms, seconds)] = ticks.sql(
        """select count(val_accuracy), arg_max(val_accuracy, tick), arg_max(val_loss, tick),
                  median(wall_ns) / 1e6, sum(wall_ns) / 1e9 from ticks"""
    ).fetchall()
    if evaluations < epochs:
        return None
    curve = ticks.sql(
        """select avg(tick), avg(loss), avg(accuracy), median(wall_ns) / 1e6
           from (select *, ntile(300) over (order by tick) as stretch from ticks)
           group by stretch order by 1"""
    ).fetchall()
    tests = ticks.sql(
        "select tick, val_accuracy from ticks where val_accuracy is not null order by tick"
    ).fetchall()
    tested = [list(column) for column in zip(*tests, strict=True)]
    return Training(variant, seed, epochs, accuracy, loss, tick_ms, seconds, curve, tested)


def table(trainings: list[Training]) -> Table:
    """Make a table of the variants on the test images: means over seeds, and extreme accuracies."""
    made = Table(show_edge=False, pad_edge=False)
    made.add_column("variant", no_wrap=True)
    for name in ("epochs", "seeds", "accuracy", "worst", "best", "loss", "tick ms", "s"):
        made.add_column(name, justify="right", no_wrap=True)
    groups: dict[tuple[Variant, int], list[Training]] = {}
    for each in trainings:
        groups.setdefault((each.variant, each.epochs), []).append(each)
    for (variant, epochs), group in groups.items():
        accuracies, losses, milliseconds, seconds = zip(*(each[3:7] for each in group), strict=True)
        made.add_row(
            variant,
            str(epochs),
            str(len(group)),
            *(f"{of(accuracies):.4f}" for of in (statistics.mean, min, max)),
            f"{statistics.mean(losses):.3f}",
            f"{statistics.mean(milliseconds):.2f}",
            f"{statistics.mean(seconds):.0f}",
        )
    return made


def draw(trainings: list[Training], path: Path) -> None:
    """Write a page with the curves that needs no network."""
    titles = ("loss", "accuracy of the batch", "accuracy on the test images", "tick, ms")
    figure = make_subplots(2, 2, subplot_titles=titles)
    for each in trainings:
        ticks, losses, accuracies, milliseconds = zip(*each.curve, strict=True)
        curves = [(ticks, losses), (ticks, accuracies), each.tests, (ticks, milliseconds)]
        for place, (x, y) in enumerate(curves):
            line = go.Scatter(
                x=x,
                y=y,
                name=each.variant,
                legendgroup=each.variant,
                showlegend=place == 0 and each.seed == 0,
                line={"color": COLOURS[each.variant], "width": 1},
                hovertext=f"{each.variant}, seed {each.seed}",
            )
            figure.add_trace(line, row=place // 2 + 1, col=place % 2 + 1)
    figure.update_xaxes(title="tick", row=2)
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_yaxes(type="log", row=2, col=2)
    figure.update_layout(template="simple_white", title="One model, five ways to normalize it")
    figure.write_html(path, include_plotlyjs=True)


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments, description=__doc__))
    except MetronormError as error:
        sys.exit(f"keras_classifier: {error}")
