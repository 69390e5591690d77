"""Pictures of runs that the gallery of recipes shows."""

import sys
from pathlib import Path

import numpy as np
import pytest

from metronorm.clock import Clock
from metronorm.errors import ConfigError
from metronorm.runs import open_run

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

from lib.gallery import keep


def test_the_newest_picture_of_that_name_is_kept(tmp_path: Path) -> None:
    with Clock(tmp_path / "run") as clock:
        for number in clock.ticks(range(2)):
            clock.sample("film", np.full((4, 6, 3), 100 * number, np.uint8))
            clock.sample("other", np.zeros((2, 2, 3), np.uint8))
    path = keep(str(tmp_path / "run"), "film", "pole", folder=tmp_path / "kept")
    newest = [each for each in open_run(tmp_path / "run").samples() if each.name == "film"][-1]
    assert path == tmp_path / "kept" / "pole.png"
    assert path.read_bytes() == newest.read()
    assert newest.tick == 2

    with pytest.raises(ConfigError, match="got nothing; try: film, other"):
        keep(str(tmp_path / "run"), "nothing", "pole", folder=tmp_path)


def test_a_picture_that_is_too_large_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    with Clock(tmp_path / "run") as clock:
        for _ in clock.ticks(range(1)):
            clock.sample("noise", noise)
    with pytest.raises(ConfigError, match="at most 150,000 bytes; got noise, 27"):
        keep(str(tmp_path / "run"), "noise", "noise", folder=tmp_path)
    assert not (tmp_path / "noise.png").exists()
