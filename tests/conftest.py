"""Set before torch is loaded: two test processes on two cores, one thread each; a backend of Keras.

TensorFlow's LLVM and Triton's abort a process that loads them in this order. So TensorFlow is
loaded only where it is Keras' backend, and then after Triton.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from .forked import ForkedProcesses, Forks

settings.register_profile("busy machines", deadline=None, max_examples=50)
settings.load_profile("busy machines")

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("KERAS_BACKEND", "torch")
if os.environ["KERAS_BACKEND"] == "tensorflow":
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401
else:
    modules: dict[str, Any] = sys.modules
    modules["tensorflow"] = None  # what is not installed

SMALL = 64 << 10


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of rings that no other test takes for those of dead processes."""
    from metronorm.store import ring

    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(ring, "shared_folder", lambda: folder)
    return folder


@pytest.fixture
def small_rings(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same; those of ticks are soon full."""
    from metronorm.store import writer

    monkeypatch.setitem(writer.CAPACITIES, "ticks", SMALL)
    return shared


@pytest.fixture(scope="session")
def ranks_of_torch() -> Iterator[Forks]:
    """Forks scripts of ranks, out of a process that has torch and its sharding loaded."""
    modules = ("torch._dynamo", "torch.distributed.fsdp", "metronorm.tasks.observe")
    with Forks(*modules) as found:
        yield found


@pytest.fixture(scope="session")
def _plain_libraries() -> Iterator[Forks]:
    modules = ("peft", "transformers.models.auto.modeling_auto", "transformers.modeling_utils")
    with Forks(*modules, environment={"HF_HUB_OFFLINE": "1"}, warned="ignore") as found:
        yield found


@pytest.fixture
def forked_proofs(_plain_libraries: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved model is proven by a process that is forked, with its libraries loaded already."""
    from metronorm.finetune import proving

    monkeypatch.setattr(proving, "subprocess", ForkedProcesses(_plain_libraries))
