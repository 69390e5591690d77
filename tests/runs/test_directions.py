import pytest

from metronorm.runs.directions import better


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("loss", "lower"),
        ("validation_loss_ema", "lower"),
        ("test_loss", "lower"),
        ("loss_per_token", "lower"),
        ("perplexity", "lower"),
        ("validation_accuracy", "higher"),
        ("accuracy/top5", "higher"),
        ("val_F1", "higher"),
        ("accuracy_error", None),
        ("learning_rate", None),
        ("accelerator", None),
        ("score", None),
        ("tokens", None),
    ],
)
def test_what_a_name_says(metric: str, direction: str | None) -> None:
    assert better(metric, {}) == direction


def test_the_config_decides() -> None:
    config = {"best": "score_ema", "best_mode": "max"}
    for name in ("score", "validation_score", "validation_score_ema", "test_score_last"):
        assert better(name, config) == "higher"
        assert better(name, config | {"best_mode": "min"}) == "lower"
        assert better(name, config | {"best_mode": "up"}) is None
    assert better("accuracy", {"best": "accuracy", "best_mode": "min"}) == "lower"
    assert better("validation_loss", config) == "lower", "of another measure"
    assert better("score", {"best": 3, "best_mode": "max"}) is None
    assert better("score", {"best": "score", "best_mode": ["max"]}) is None
