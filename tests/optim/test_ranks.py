"""Any number of ranks, any number of beats: the one big batch. DDP, FSDP2 and FSDP1."""

from pathlib import Path

import pytest

from ..side_by_side import run_together

SCRIPT = Path(__file__).parent / "ranks.py"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("how", ["ddp", "fsdp", "fsdp1"])
def test_ranks_equal_one_process(how: str, ranks: int, tmp_path: Path) -> None:
    printed = run_together(
        [
            [str(SCRIPT), how, str(rank), str(ranks), str(tmp_path / "store")]
            for rank in range(ranks)
        ],
        seconds=250,
    )
    print(printed[0])  # how large the differences are
