from pathlib import Path

import pytest

from metronorm.errors import RunError
from metronorm.store.run_directory import check_free


@pytest.mark.parametrize("left", ["ticks", "checkpoints"])
def test_what_is_left_of_a_run_is_no_free_directory(tmp_path: Path, left: str) -> None:
    (tmp_path / "run" / left).mkdir(parents=True)
    with pytest.raises(RunError, match=rf"holds {left} of a run without its run\.json; try: ano"):
        check_free(tmp_path / "run")
    check_free(tmp_path / "other")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="File name too long"):
        check_free(tmp_path / ("x" * 300))
