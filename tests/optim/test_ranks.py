"""Any number of ranks, any number of beats: the one big batch. DDP and FSDP2."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "ranks.py"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_ranks_equal_one_process(how: str, ranks: int, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(SCRIPT), how]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=250)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    print(said[0])  # how large the differences are
    assert [process.returncode for process in started] == [0] * ranks, "\n".join(said)
