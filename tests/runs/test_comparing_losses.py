import math
from pathlib import Path

import pytest

from metronorm.errors import ConfigError
from metronorm.runs import Run
from metronorm.runs.comparing import LossAt, Reached, compare

from ..clock.noisy import noise, record

TICK_NS = 10**9  # one second


def learning(
    run: Path,
    ticks: int,
    *,
    tokens: int = 100,
    seconds: int = 1,
    half: float = 10_000.0,
    spread: float = 0.0,
) -> Run:
    """A run with a loss of 8 at the beginning, which halves with every this many tokens."""
    noises = noise(ticks, ticks, memory=0.0)

    def metrics(tick: int) -> dict[str, float]:
        loss = 8 * 0.5 ** (tick * tokens / half) * (1 + spread * noises[tick - 1])
        return {"loss": loss, "tokens": tokens}

    return record(run, [seconds * TICK_NS] * ticks, metrics=metrics)


def at(losses: list[LossAt], axis: str) -> list[LossAt]:
    return [loss for loss in losses if loss.axis == axis]


def test_losses_at_equal_ticks_tokens_and_seconds(tmp_path: Path) -> None:
    """B learns the same from a token, with twice the tokens and thrice the time per tick."""
    a = learning(tmp_path / "a", 400)
    b = learning(tmp_path / "b", 300, tokens=200, seconds=3)
    losses = compare(a, b).losses
    assert [loss.at for loss in at(losses, "ticks")] == [75, 150, 225, 300]
    assert [loss.at for loss in at(losses, "tokens")] == [10_000, 20_000, 30_000, 40_000]
    assert [loss.at for loss in at(losses, "seconds")] == [100, 200, 300, 400]
    for loss in at(losses, "tokens"):
        assert loss.a is not None
        # half of a twentieth of the way behind: what the median of that stretch is
        assert loss.a == pytest.approx(8 * 0.5 ** ((loss.at - 1_000) / 10_000), rel=0.01)
        assert loss.b == pytest.approx(loss.a, rel=0.01), "equal tokens, equal losses"
    for loss in at(losses, "ticks"):
        assert loss.a is not None
        assert loss.b is not None
        assert loss.b < 0.7 * loss.a, "a tick of B has more tokens"
    for loss in at(losses, "seconds"):
        assert loss.a is not None
        assert loss.b is not None
        assert loss.b > 1.2 * loss.a, "a token of B takes longer"


def test_seconds_to_the_loss_that_the_other_ended_with(tmp_path: Path) -> None:
    a = learning(tmp_path / "a", 400, spread=0.05)
    b = learning(tmp_path / "b", 300, tokens=200, seconds=1, spread=0.05)
    of_a, of_b = compare(a, b).reached
    assert of_a.end_of == "A"
    assert of_a.loss == pytest.approx(8 * 0.5**4, rel=0.1)
    assert of_a.a_seconds == pytest.approx(395, abs=15)
    assert of_a.b_seconds == pytest.approx(200, abs=10)
    assert (of_b.end_of, of_b.a_seconds) == ("B", None)
    assert of_b.b_seconds == pytest.approx(295, abs=15)
    found = compare(a, b).statements
    assert found[-1].startswith("B's last loss, 0.1")
    assert ": reached by A never, by B after " in found[-1]


def test_a_single_lucky_loss_is_not_reached(tmp_path: Path) -> None:
    lucky = record(
        tmp_path / "lucky",
        [TICK_NS] * 200,
        metrics=lambda tick: {"loss": 0.0 if tick in (1, 2, 90) else 5.0},
    )
    good = record(tmp_path / "good", [TICK_NS] * 200, metrics=lambda tick: {"loss": 200 - tick})
    (_, end_of_good) = compare(lucky, good).reached
    assert end_of_good == Reached("B", 4.5, None, 200.0)


def test_a_nan_is_not_a_low_loss(tmp_path: Path) -> None:
    good = record(tmp_path / "a", [TICK_NS] * 100, metrics=lambda tick: {"loss": 1.0})
    diverged = record(
        tmp_path / "b",
        [TICK_NS] * 100,
        metrics=lambda tick: {"loss": math.nan if tick > 60 or tick == 24 else 0.5},
    )
    found = compare(good, diverged)
    assert [loss.b for loss in at(found.losses, "ticks")] == [0.5, 0.5, math.inf, math.inf]
    assert found.reached == [Reached("A", 1.0, 5.0, 5.0)]


def test_a_metric_that_is_logged_at_some_ticks(tmp_path: Path) -> None:
    def metrics(tick: int) -> dict[str, float]:
        return {"validation_loss": 100.0 - tick} if tick % 40 == 0 else {"loss": 2.0}

    a, b = (record(tmp_path / name, [TICK_NS] * 200, metrics=metrics) for name in "ab")
    found = compare(a, b, metric="validation_loss")
    assert found.metric == "validation_loss"
    assert [loss.a for loss in at(found.losses, "ticks")] == [60, 20, -20, -100]
    assert at(found.losses, "tokens") == []
    first = compare(a, learning(tmp_path / "c", 80), metric="loss")
    assert first.metric == "loss"
    assert at(first.losses, "tokens") == [], "only one of them counted tokens"
    early = [loss.a for loss in at(compare(a, a, metric="validation_loss").losses, "seconds")]
    assert early == [60, 20, -20, -100]
    rare = record(
        tmp_path / "rare",
        [TICK_NS] * 60,
        metrics=lambda tick: {"score": 1.0} if tick > 40 else {},
    )
    assert [loss.a for loss in compare(rare, rare, metric="score").losses][:4] == [None, None, 1, 1]


def test_a_metric_that_is_not_in_both(tmp_path: Path) -> None:
    a = record(tmp_path / "a", [TICK_NS] * 60, metrics=lambda tick: {"loss": 1.0, "tokens": 5})
    b = record(tmp_path / "b", [TICK_NS] * 60, metrics=lambda tick: {"accuracy": 1.0, "tokens": 5})
    c = record(tmp_path / "c", [TICK_NS] * 60)
    assert compare(a, b).metric is None
    with pytest.raises(ConfigError, match=r"got 'loss', which is not in .*b; try: one of tokens"):
        compare(a, b, metric="loss")
    with pytest.raises(ConfigError, match=r"not in .*a and .*b; try: one of tokens"):
        compare(a, b, metric="perplexity")
    with pytest.raises(ConfigError, match=r"not in .*c; try: other runs: .* share no metric"):
        compare(a, c, metric="loss")


def test_metrics_with_names_that_the_queries_use(tmp_path: Path) -> None:
    names = ("wall", "value", "bin", "sampled", "ticks", "p0", 'größe "x"')
    a = record(tmp_path / "a", [TICK_NS] * 60, metrics=lambda tick: dict.fromkeys(names, tick))
    for name in names:
        losses = compare(a, a, metric=name).losses
        assert [loss.a for loss in at(losses, "ticks")] == [14, 29, 44, 59]


def test_one_slow_tick_at_the_end_is_not_all_of_the_last_stretch(tmp_path: Path) -> None:
    """In seconds alone, the last loss would be of one tick, which no smoothed loss reaches."""
    runs = []
    for name, low in (("a", 0.2), ("b", 1.0)):
        losses = [3.0 + 0.01 * value for value in noise(ord(name), 200, memory=0.0)]
        losses[-1] -= low
        times = [TICK_NS] * 199 + [60 * TICK_NS]
        runs.append(record(tmp_path / name, times, metrics=lambda t, x=losses: {"loss": x[t - 1]}))
    for end in compare(*runs).reached:
        assert end.loss == pytest.approx(3, abs=0.02)
        assert end.a_seconds is not None
        assert end.b_seconds is not None


def test_equal_runs_reach_the_last_loss_of_each_other(tmp_path: Path) -> None:
    found = []
    for seed in range(8):
        runs = []
        for name in "ab":
            losses = [
                8 / tick**0.5 + 0.1 * value
                for tick, value in enumerate(noise(2 * seed + ord(name), 120, memory=0.0), 1)
            ]
            path = tmp_path / f"{name}{seed}"
            metrics = lambda tick, x=losses: {"loss": x[tick - 1]}  # noqa: E731
            runs.append(record(path, [TICK_NS] * 120, metrics=metrics))
        found += compare(*runs).reached
    never = sum(None in (end.a_seconds, end.b_seconds) for end in found)
    assert never <= len(found) // 4, "noise alone keeps hardly one from it"


def test_where_higher_is_better(tmp_path: Path) -> None:
    """B is always a tenth behind in accuracy, and reaches no better value than that."""
    runs = [
        record(
            tmp_path / name,
            [TICK_NS] * 200,
            metrics=lambda tick, x=behind: {  # type: ignore[misc]
                "accuracy": math.nan if tick == 90 else tick / 200 - x,
                "level": tick / 200 - x,
            },
        )
        for name, behind in (("a", 0.0), ("b", 0.1))
    ]
    found = compare(*runs, metric="accuracy")
    assert found.better == "higher"
    of_a, of_b = found.reached
    assert of_a.loss == pytest.approx(0.975, abs=0.01)
    assert of_a.a_seconds == pytest.approx(195, abs=10)
    assert of_a.b_seconds is None
    assert of_b.loss == pytest.approx(0.875, abs=0.01)
    assert of_b.a_seconds == pytest.approx(180, abs=10), "not at once, where it is low"
    assert [loss.a for loss in at(found.losses, "ticks")] == [
        pytest.approx(tick / 200 - 0.025, abs=0.01) for tick in (50, 100, 150, 200)
    ]
    assert any("accuracy after 200 ticks is lower, which is worse" in s for s in found.statements)
    swapped = compare(*reversed(runs), metric="accuracy")
    assert any("is higher, which is better" in s for s in swapped.statements)
    unknown = compare(*runs, metric="level")
    assert (unknown.better, unknown.reached) == (None, [])
    (statement,) = (s for s in unknown.statements if "level" in s)
    assert statement.startswith("B's level after 200 ticks is lower: 0.9")


def test_a_metric_that_the_configs_judge_differently(tmp_path: Path) -> None:
    runs = [
        record(tmp_path / mode, [TICK_NS] * 60, metrics=lambda tick: {"level": tick})
        for mode in ("min", "max")
    ]
    for run in runs:
        run.info.config |= {"best": "level", "best_mode": run.info.name}
    assert compare(runs[0], runs[0], metric="level").better == "lower"
    assert compare(runs[1], runs[1], metric="level").better == "higher"
    assert compare(*runs, metric="level").better is None
