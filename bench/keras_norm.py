"""Layer normalization behind Keras: ours, Keras' own, and the formula composed of operations.

One process for each backend, the contestants taking turns in it: forward, forward and backward,
eagerly and compiled. Then what a forward and backward pass adds to the peak of a process' memory,
and what `TickCallback` costs a batch of `fit`, beside Keras' TensorBoard callback.

python bench/keras_norm.py                      all of it, about five minutes
python bench/keras_norm.py tensorflow           one backend
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS, WIDTH, EPSILON = 4096, 768, 1e-3
LARGE = 65_536  # rows, where memory is measured
BATCHES, FITS = 3000, 5


def main(arguments: list[str]) -> None:
    if not arguments:
        for backend in ("tensorflow", "jax", "torch"):
            here("backend", backend)
    elif len(arguments) == 1:
        here("backend", arguments[0])
    elif arguments[0] == "backend":
        compare(arguments[1])
    else:
        print(peak(*arguments[1:]))


def here(*arguments: str) -> str:
    """What this script prints in a process of its own, for the backend named second."""
    environment = os.environ | {"KERAS_BACKEND": arguments[1], "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, *arguments]
    if arguments[0] == "backend":
        subprocess.run(command, env=environment, check=True)
        return ""
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def compare(backend: str) -> None:
    from _race import race, ratios
    from _rows import append

    for way in WAYS[backend]:
        for passes in ("forward", "forward+backward"):
            runs = {who: RUNS[backend](who, way, passes, ROWS) for who in WHO[backend]}
            case = f"{backend}, {way}, {ROWS}x{WIDTH} float32 {passes}"
            turns = race(runs)
            for who, samples in turns.items():
                append("keras_norm", f"{case}, {who}", "ms", samples)
            for slow in WHO[backend][1:]:
                ratio = ratios(turns, slow, "ours")
                append("keras_norm", f"{case}, {slow} over ours", "ratio", ratio)
        for who in WHO[backend]:
            found = [float(here("memory", backend, who, way)) for _ in range(3)]
            case = f"{backend}, {way}, {LARGE}x{WIDTH} float32 forward+backward, peak, {who}"
            append("keras_norm", case, "MiB", found)
    if backend == "tensorflow":
        compare_callbacks()


def peak(backend: str, who: str, way: str) -> float:
    """MiB that the passes add to what this process holds, at most."""
    RUNS[backend](who, way, "forward+backward", 8)()  # what is loaded and compiled for any size
    run = RUNS[backend](who, way, "forward+backward", LARGE)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = kib("VmRSS")
    run()
    return (kib("VmHWM") - before) / 1024


def kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


# The contestants ---------------------------------------------------------------------------------


def numbers(rows: int, seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).standard_normal((rows, WIDTH), "float32")


def layers() -> dict[str, Any]:
    import keras

    from metronorm.keras import LayerNormalization

    made = {
        "ours": LayerNormalization(epsilon=EPSILON),
        "keras": keras.layers.LayerNormalization(epsilon=EPSILON),
    }
    for layer in made.values():
        layer.build((None, WIDTH))
    return made


def tensorflow_run(who: str, way: str, passes: str, rows: int) -> Callable[[], object]:
    import tensorflow as tf

    x, dy = (tf.constant(numbers(rows, seed)) for seed in range(2))
    gamma, beta = tf.Variable(tf.ones(WIDTH)), tf.Variable(tf.zeros(WIDTH))
    layer: Any
    if who == "composed":

        def layer(x: Any) -> Any:
            mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
            return (x - mean) / tf.sqrt(variance + EPSILON) * gamma + beta
    else:
        layer = layers()[who]
        gamma, beta = layer.gamma.value, layer.beta.value

    def both(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, [x, gamma, beta], dy)

    def forward(x: Any, dy: Any) -> Any:
        return layer(x)

    act: Any = forward if passes == "forward" else both
    if way != "eager":
        act = tf.function(act, jit_compile=way == "XLA")
    return lambda: act(x, dy)


def jax_run(who: str, way: str, passes: str, rows: int) -> Callable[[], object]:
    import jax
    import jax.numpy as jnp

    x, dy = (jnp.asarray(numbers(rows, seed)) for seed in range(2))
    gamma, beta = jnp.ones(WIDTH), jnp.zeros(WIDTH)
    layer = layers()[who]

    def apply(x: Any, gamma: Any, beta: Any) -> Any:
        return layer.stateless_call([gamma, beta], [], x)[0]

    def both(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
        y, back = jax.vjp(apply, x, gamma, beta)
        return y, back(dy)

    def forward(x: Any, gamma: Any, beta: Any, dy: Any) -> Any:
        return apply(x, gamma, beta)

    act: Any = forward if passes == "forward" else both
    if way == "jit":
        act = jax.jit(act)
    return lambda: jax.block_until_ready(act(x, gamma, beta, dy))


def torch_run(who: str, way: str, passes: str, rows: int) -> Callable[[], object]:
    import torch

    from metronorm.norm import LayerNorm

    x, dy = (torch.from_numpy(numbers(rows, seed)) for seed in range(2))
    layer = LayerNorm(WIDTH, EPSILON) if who == "metronorm.norm" else layers()[who]
    leaves = [x.requires_grad_(), *layer.parameters()]

    def forward() -> object:
        with torch.no_grad():
            return layer(x)

    def both() -> object:
        return torch.autograd.grad(layer(x), leaves, dy)

    return forward if passes == "forward" else both


RUNS = {"tensorflow": tensorflow_run, "jax": jax_run, "torch": torch_run}
WAYS = {"tensorflow": ("eager", "tf.function", "XLA"), "jax": ("eager", "jit"), "torch": ("eager",)}
WHO = {
    "tensorflow": ("ours", "keras", "composed"),
    "jax": ("ours", "keras"),
    "torch": ("ours", "keras", "metronorm.norm"),
}


# The callback ------------------------------------------------------------------------------------


def compare_callbacks() -> None:
    """What each callback adds to a batch of a model that takes none of the time."""
    import keras
    import numpy as np
    from _rows import append

    from metronorm.keras import TickCallback

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    x, y = np.ones((BATCHES, 8), "float32"), np.ones((BATCHES, 1), "float32")

    def seconds(callbacks: list[Any]) -> float:
        begin = time.perf_counter()
        model.fit(x, y, batch_size=1, epochs=1, verbose=0, callbacks=callbacks)
        return time.perf_counter() - begin

    seconds([])
    added: dict[str, list[float]] = {"TickCallback": [], "TensorBoard": []}
    for turn in range(FITS):
        with tempfile.TemporaryDirectory() as folder:
            alone = seconds([])
            ours = seconds([TickCallback(f"{folder}/{turn}")])
            theirs = seconds([keras.callbacks.TensorBoard(f"{folder}/tb", update_freq=1)])
        added["TickCallback"].append((ours - alone) / BATCHES * 1e6)
        added["TensorBoard"].append((theirs - alone) / BATCHES * 1e6)
    for who, samples in added.items():
        append(
            "keras_norm", f"tensorflow, fit, a batch with {who}, opening included", "us", samples
        )


if __name__ == "__main__":
    main(sys.argv[1:])
