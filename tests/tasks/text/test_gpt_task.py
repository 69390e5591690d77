"""What the model writes in a training is kept as samples of the run."""

from pathlib import Path

from metronorm.runs import open_run
from metronorm.tasks import text
from metronorm.train import train

from ...train.tiny import tiny_config


def test_what_the_model_writes_is_kept(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, ticks=6, sample_every=3, sample_tokens=20)
    train(text.task, config, tmp_path / "run")
    samples = open_run(tmp_path / "run").samples()
    assert [(one.name, one.kind, one.tick) for one in samples] == [
        ("text", "text", 3),
        ("text", "text", 6),
    ]
    assert all(one.read().decode() for one in samples)
