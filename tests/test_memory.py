import subprocess
import sys

import numpy as np
import pytest
import torch

from metronorm.errors import OutOfMemoryError
from metronorm.memory import explaining_out_of_memory, is_out_of_memory, peak_bytes


def test_running_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 50)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 50)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
    assert not is_out_of_memory(RuntimeError("something else"))


@pytest.mark.parametrize(("resume", "advice"), [(False, "a smaller"), (True, "free memory on")])
def test_what_is_advised_can_be_done(resume: bool, advice: str) -> None:
    with (
        pytest.raises(OutOfMemoryError, match=f"must fit into memory.*try: {advice}"),
        explaining_out_of_memory(resume=resume),
    ):
        torch.empty(1 << 50)


def test_the_peak_is_not_that_of_the_parent() -> None:
    held = np.ones(400 << 20, dtype=np.uint8)
    script = "from metronorm.memory import peak_bytes; print(peak_bytes())"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert peak_bytes() > held.nbytes > int(found.stdout)


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="something else"), explaining_out_of_memory(resume=True):
        raise RuntimeError("something else")
