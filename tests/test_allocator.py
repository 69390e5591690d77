"""Memory that this process need not hold."""

import sys
from pathlib import Path

import numpy as np
import pytest

from metronorm.allocator import page_out
from metronorm.memory import resident_bytes

BYTES = 64 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such advice")
def test_pages_of_a_mapped_file_go_and_come_back(tmp_path: Path) -> None:
    ones = np.ones(BYTES, dtype=np.uint8)
    ones.tofile(tmp_path / "weights")
    mapped = np.memmap(tmp_path / "weights", dtype=np.uint8, mode="r")
    assert mapped.sum(dtype=np.int64) == BYTES  # every page is here
    before = resident_bytes() or 0
    page_out(mapped.ctypes.data + 5, BYTES - 7)
    assert before - (resident_bytes() or 0) > BYTES // 2
    page_out(ones.ctypes.data, BYTES)  # of no file: nothing may be lost
    assert mapped.sum(dtype=np.int64) == ones.sum(dtype=np.int64) == BYTES


def test_less_than_a_page_stays() -> None:
    few = np.ones(100, dtype=np.uint8)
    page_out(few.ctypes.data, 100)
    assert few.sum() == 100
