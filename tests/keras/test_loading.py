"""What is loaded with `metronorm.keras`, and what a saved model needs."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from metronorm.keras import LayerNormalization

BACKEND = keras.backend.backend()


def run(script: str, *arguments: str, backend: str = BACKEND) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        text=True,
        capture_output=True,
        timeout=240,
    )


@pytest.mark.skipif(BACKEND == "torch", reason="torch is this backend")
def test_without_torch() -> None:
    ended = run(
        """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
# as if it were not installed; SciPy takes a None in sys.modules for torch
PathFinder.find_spec = staticmethod(
    lambda name, *more: None if name.partition(".")[0] == "torch" else find(name, *more)
)
import keras
from metronorm.keras import LayerNormalization, Ticks
model = keras.Sequential([keras.layers.Input((3,)), LayerNormalization()])
model.compile(optimizer=Ticks(0.1), loss="mse")
model.fit(keras.ops.ones((4, 3)), keras.ops.ones((4, 3)), verbose=0)
"""
    )
    assert ended.returncode == 0, ended.stderr


def test_a_saved_layer_needs_metronorm_to_be_imported(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Input((3,)), LayerNormalization()])
    model.save(tmp_path / "model.keras")
    ended = run(
        """
import sys
import keras
try:
    keras.saving.load_model(sys.argv[1])
except Exception as error:  # Keras' own: nothing of ours is there to say it
    print(error, file=sys.stderr)
import metronorm.keras
model = keras.saving.load_model(sys.argv[1])
print(type(model.layers[-1]).__module__)
""",
        str(tmp_path / "model.keras"),
    )
    assert ended.stdout.split()[-1:] == ["metronorm.keras.layers"], ended.stderr
    assert "Could not locate class 'LayerNormalization'" in ended.stderr
    assert "metronorm>LayerNormalization" in ended.stderr


def test_another_backend_reads_the_same_model(tmp_path: Path) -> None:
    """Weights and outputs of a model that was saved with one backend are those of another."""
    other = "torch" if BACKEND != "torch" else "tensorflow"
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Dense(5), LayerNormalization(axis=-1)]
    )
    x = np.linspace(-2, 3, 24, dtype="float32").reshape(4, 6)
    want = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", x)
    ended = run(
        """
import sys
import numpy as np
import keras
import metronorm.keras
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
np.save(sys.argv[1] + "/y.npy", model.predict(np.load(sys.argv[1] + "/x.npy"), verbose=0))
""",
        str(tmp_path),
        backend=other,
    )
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), want, rtol=1e-4, atol=1e-5)
