"""A run that an earlier version wrote, in `old_run/`: it is sampled from, and goes on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.tasks.text import Config, generate_text, load_model
from metronorm.train import train
from metronorm.train.config_changes import config_from_dict, run_config

from .tiny import losses, write_text

OLD = Path(__file__).with_name("old_run")

# that the version which wrote the first eight ticks reached in the same run, not interrupted
LATER = [2.1723653, 2.1868339, 2.174379, 2.1624181, 2.1716534, 2.1601884, 2.1926947, 2.1897876]
VALIDATION = 2.1778426


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_it_can_be_read_and_sampled_from(run: Path) -> None:
    assert len(open_run(run).ticks().rows()) == 8
    assert load_model(run).config.width == 16
    written = "".join(generate_text(run, prompt="a", max_tokens=20, seed=0))
    assert len(written) == 21


def test_it_goes_on_as_it_would_have(run: Path, tmp_path: Path) -> None:
    config = config_from_dict(run_config(run), Config)
    write_text(tmp_path / "text")
    named = replace(
        config,
        text=replace(config.text, data=(str(tmp_path / "text"),), cache=tmp_path / "cache"),
    )
    assert train(text.task, named, run, resume=True).tick == 16
    found = losses(run)
    assert [loss for _, loss, _ in found[8:]] == pytest.approx(LATER, rel=1e-4)
    assert found[-1][2] == pytest.approx(VALIDATION, rel=1e-4)
