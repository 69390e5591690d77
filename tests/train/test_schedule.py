import pytest

from metronorm.errors import ConfigError
from metronorm.train import OptimizerConfig
from metronorm.train.schedule import learning_rate_factor


def rates(config: OptimizerConfig, ticks: int = 100) -> list[float]:
    return [
        config.learning_rate * learning_rate_factor(config, tick, ticks)
        for tick in range(1, ticks + 1)
    ]


def test_warm_up_rises_linearly() -> None:
    for schedule in ("cosine", "wsd", "constant"):
        found = rates(OptimizerConfig(learning_rate=1.0, warmup=0.1, schedule=schedule))  # type: ignore[arg-type]
        assert found[:10] == pytest.approx([tick / 10 for tick in range(1, 11)])


def test_cosine_ends_at_the_final_share() -> None:
    found = rates(OptimizerConfig(learning_rate=2.0, warmup=0.1, final=0.1))
    assert found[54] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way down
    assert found[-1] == pytest.approx(0.2)
    assert found[10:] == sorted(found[10:], reverse=True)


def test_wsd_is_flat_then_linear() -> None:
    config = OptimizerConfig(learning_rate=1.0, schedule="wsd", warmup=0.1, decay=0.2, final=0.0)
    found = rates(config)
    assert found[10:80] == [1.0] * 70
    assert found[80:] == pytest.approx([left / 20 for left in range(19, -1, -1)])


def test_constant_and_no_warm_up() -> None:
    assert rates(OptimizerConfig(learning_rate=1.0, schedule="constant", warmup=0.0)) == [1.0] * 100
    assert rates(OptimizerConfig(learning_rate=1.0, warmup=1.0), ticks=1) == [1.0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"learning_rate": float("inf")}, "learning_rate must be above 0 and finite"),
        ({"learning_rate": "fast"}, "learning_rate must be a number; got 'fast'"),
        ({"matrix_learning_rate": True}, "matrix_learning_rate must be a number; got True"),
        ({"momentum": float("nan")}, "momentum must be at least 0 and below 1; got nan"),
        ({"final": float("nan")}, "final must be between 0 and 1; got nan"),
        ({"clip": float("inf")}, "clip must be at least 0 and finite"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0 and finite"),
        ({"name": "sgd"}, "name must be one of adamw, ticks, "),
        ({"schedule": "steps"}, "schedule must be one of cosine, wsd, constant; got 'steps'"),
        ({"warmup": 1.5}, "warmup must be between 0 and 1"),
        ({"warmup": 0.6, "decay": 0.6, "schedule": "wsd"}, "leave room for each other"),
        ({"betas": (0.9, 1.0)}, "betas must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0 and finite"),
        ({"clip": -1.0}, "clip must be at least 0 and finite"),
    ],
)
def test_impossible_options(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        OptimizerConfig(**changes)  # type: ignore[arg-type]
