import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from metronorm.clock import Clock
from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.integrations.opentelemetry import instrument

from ..clock.virtual import VirtualTime

SECOND = 1_000_000_000
Seen = dict[tuple[str, str], float]


class Observatory:
    """A provider and what it collects."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        self.units: dict[str, str] = {}
        self.counters: set[str] = set()

    def collect(self, run: str = "run") -> Seen:
        """Values of a run, by name and the label that distinguishes them."""
        found: Seen = {}
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "metronorm"
                for metric in scope.metrics:
                    self.units[metric.name] = metric.unit or ""
                    if isinstance(metric.data, Sum):
                        assert metric.data.is_monotonic
                        self.counters.add(metric.name)
                    for point in metric.data.data_points:
                        labels = dict(point.attributes or {})
                        if labels.pop("run") != run:
                            continue
                        assert (labels.pop("attempt"), labels.pop("rank")) == ("0", "0")
                        assert len(labels) <= 1
                        key = metric.name, str(next(iter(labels.values()), ""))
                        assert key not in found
                        found[key] = point.value  # type: ignore[union-attr]
        return found


@pytest.fixture
def observatory() -> Iterator[Observatory]:
    made = Observatory()
    yield made
    made.provider.shutdown()


def test_values_of_the_newest_tick(tmp_path: Path, observatory: Observatory) -> None:
    time = VirtualTime()
    with (
        Clock(tmp_path / "run", progress=False, now=time) as clock,
        instrument(clock, observatory.provider),
    ):
        assert ("metronorm.ticks", "") not in observatory.collect(), "there is none yet"
        for tick in clock.ticks(range(1, 4)):
            with clock.phase("forward"):
                time.pass_(2 * SECOND)
            with clock.phase("update"):
                time.pass_(tick * SECOND)
            clock.log(loss=0.5 / tick)
            if tick == 2:
                assert observatory.collect()["metronorm.ticks", ""] == 1
        seen = observatory.collect()
    assert seen["metronorm.ticks", ""] == 3
    assert seen["metronorm.tick", ""] == 5
    assert seen["metronorm.phase", "forward"] == 6
    assert seen["metronorm.phase", "update"] == 6
    assert seen["metronorm.metric", "loss"] == pytest.approx(0.5 / 3)
    assert seen["metronorm.dropped_records", ""] == 0
    assert observatory.units["metronorm.phase"] == observatory.units["metronorm.tick"] == "s"
    assert observatory.counters >= {"metronorm.ticks", "metronorm.phase"}
    assert "metronorm.tick" not in observatory.counters


def test_resources_of_the_machine(tmp_path: Path, observatory: Observatory) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        pass  # a last sample is taken when it closes
    with instrument(clock, observatory.provider):
        seen = observatory.collect()
    assert seen["metronorm.memory", ""] == clock.latest_resources["memory_bytes"]
    assert observatory.units["metronorm.memory"] == "By"
    assert "metronorm.processor" in observatory.counters


def test_after_closing_nothing_is_observed(tmp_path: Path, observatory: Observatory) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(3)))
        observation = instrument(clock, observatory.provider)
        assert observatory.collect()
        observation.close()
        observation.close()
        assert observatory.collect() == {}


def test_several_clocks_share_a_provider(
    tmp_path: Path, observatory: Observatory, caplog: pytest.LogCaptureFixture
) -> None:
    """One after another and at once; no warning about an instrument that exists."""
    with caplog.at_level(logging.WARNING):
        for name, ticks in (("first", 2), ("second", 5)):
            with (
                Clock(tmp_path / name, progress=False) as clock,
                instrument(clock, observatory.provider),
            ):
                list(clock.ticks(range(ticks)))
                assert observatory.collect(name)["metronorm.ticks", ""] == ticks
        with (
            Clock(tmp_path / "a", progress=False) as one,
            Clock(tmp_path / "b", progress=False) as other,
            instrument(one, observatory.provider),
        ):
            list(one.ticks(range(3)))
            with instrument(other, observatory.provider):
                list(other.ticks(range(4)))
                assert observatory.collect("a")["metronorm.ticks", ""] == 3
                assert observatory.collect("b")["metronorm.ticks", ""] == 4
            assert observatory.collect("b") == {}
            assert observatory.collect("a")
    assert caplog.text == ""


def test_each_provider_sees_its_own_clocks(tmp_path: Path, observatory: Observatory) -> None:
    other = Observatory()
    with Clock(tmp_path / "run", progress=False) as clock:
        list(clock.ticks(range(1)))
        with instrument(clock, other.provider):
            assert observatory.collect() == {}
            assert other.collect()
    other.provider.shutdown()


def test_without_a_provider_nothing_happens(tmp_path: Path) -> None:
    """The global one does nothing until another one is set."""
    with Clock(tmp_path / "run", progress=False) as clock, instrument(clock):
        list(clock.ticks(range(3)))


def test_wrong_use(tmp_path: Path, observatory: Observatory) -> None:
    with pytest.raises(ConfigError, match="must be entered"):
        instrument(Clock(tmp_path / "run"), observatory.provider)


def test_without_opentelemetry_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    monkeypatch.delitem(sys.modules, "metronorm.integrations.opentelemetry")
    with pytest.raises(MissingDependencyError, match=r"pip install 'metronorm\[opentelemetry\]'"):
        importlib.import_module("metronorm.integrations.opentelemetry")
