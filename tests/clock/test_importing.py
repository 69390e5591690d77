"""What `import metronorm.clock` loads: every training and every command waits for it."""

import subprocess
import sys

import pytest

CODE = "import metronorm.clock, sys; print(*sys.modules)"

# each with what it is used for, which loads it then
LATE = {
    "urllib.request": "the webhook of a stall",
    "http": "the webhook of a stall",
    "ssl": "the webhook of a stall",
    "json": "the command and the webhook of a stall",
    "tqdm": "the progress bar",
    "email": "versions of packages, in run.json",
    "importlib.metadata": "versions of packages, in run.json",
    "subprocess": "the command of a stall, and git",
    "psutil": "samples of the machine",
    "asyncio": "nothing",
    "multiprocessing": "nothing",
    "duckdb": "Parquet",
    "metronorm.store.sealing": "Parquet",
    "ctypes": "the process that makes Parquet",
    "tempfile": "Parquet, and rings where there is no shared memory",
    "numpy": "nothing",
}


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", LATE)
def test_what_is_used_later_is_loaded_later(loaded: set[str], module: str) -> None:
    assert "metronorm.clock.tick_loop" in loaded
    assert module not in loaded, f"it is for {LATE[module]}"
