import numpy as np
import pytest
import torch

from metronorm.errors import OutOfMemoryError
from metronorm.memory import explaining_out_of_memory, is_out_of_memory


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


def test_other_errors_stay() -> None:
    with pytest.raises(RuntimeError, match="something else"), explaining_out_of_memory(resume=True):
        raise RuntimeError("something else")
