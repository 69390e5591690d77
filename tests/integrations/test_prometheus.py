import importlib
import math
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metronorm.clock import Clock
from metronorm.errors import ConfigError, MissingDependencyError
from metronorm.integrations.prometheus import Endpoint, serve

from ..clock.virtual import VirtualTime

SECOND = 1_000_000_000
Key = tuple[str, tuple[tuple[str, str], ...]]


def scrape(endpoint: Endpoint) -> dict[Key, float]:
    """All samples, by name and labels but those that are on each of them."""
    url = f"http://127.0.0.1:{endpoint.port}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert (labels.pop("run"), labels.pop("attempt"), labels.pop("rank")) == (
                "run",
                "0",
                "0",
            )
            key = sample.name, tuple(labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def test_values_of_the_newest_tick(tmp_path: Path) -> None:
    time = VirtualTime()
    with (
        Clock(tmp_path / "run", progress=False, now=time) as clock,
        serve(clock, port=0) as endpoint,
    ):
        assert ("metronorm_ticks_total", ()) not in scrape(endpoint), "there is none yet"
        for tick in clock.ticks(range(1, 4), initial=10):
            with clock.phase("forward"):
                time.pass_(2 * SECOND)
            with clock.phase("update"):
                time.pass_(tick * SECOND)
            clock.log(loss=0.5 / tick, tokens=100)
        seen = scrape(endpoint)
        assert seen["metronorm_ticks_total", ()] == 13
        assert seen["metronorm_tick_seconds", ()] == 5
        assert seen["metronorm_phase_seconds_total", (("phase", "forward"),)] == 6
        assert seen["metronorm_phase_seconds_total", (("phase", "update"),)] == 6
        assert seen["metronorm_metric", (("name", "loss"),)] == pytest.approx(0.5 / 3)
        assert seen["metronorm_metric", (("name", "tokens"),)] == 100
        assert seen["metronorm_dropped_records_total", ()] == 0
        assert clock.latest is not None
        assert seen["metronorm_last_tick_timestamp_seconds", ()] == clock.latest.time_ns / 1e9


def test_nothing_is_lost_between_two_scrapes(tmp_path: Path) -> None:
    time = VirtualTime()
    with (
        Clock(tmp_path / "run", progress=False, now=time) as clock,
        serve(clock, port=0) as endpoint,
    ):
        before: dict[Key, float] = {}
        for tick in clock.ticks(range(1, 21)):
            if tick == 11:  # ten ticks are done
                before = scrape(endpoint)
            with clock.phase("forward"):
                time.pass_(tick * SECOND)
            time.pass_(SECOND)
        after = scrape(endpoint)
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
    assert grown["metronorm_ticks_total", ()] == 10
    assert grown["metronorm_phase_seconds_total", (("phase", "forward"),)] == sum(range(11, 21))
    assert grown["metronorm_phase_seconds_total", (("phase", "unattributed"),)] == 10


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    with (
        Clock(tmp_path / "run", progress=False) as clock,
        serve(clock, port=0) as endpoint,
    ):
        for _ in clock.ticks(range(1)):
            clock.log(a=math.nan, b=math.inf, c=-math.inf)
        seen = scrape(endpoint)
        assert math.isnan(seen["metronorm_metric", (("name", "a"),)])
        assert seen["metronorm_metric", (("name", "b"),)] == math.inf
        assert seen["metronorm_metric", (("name", "c"),)] == -math.inf


def test_names_and_labels_may_be_any_text(tmp_path: Path) -> None:
    name = 'größe\n"x" \\ {y}'
    with (
        Clock(tmp_path / "run", progress=False) as clock,
        serve(clock, port=0, labels={"team": 'a "b"\n'}) as endpoint,
    ):
        for _ in clock.ticks(range(1)):
            with clock.phase(name):
                clock.log(**{name: 1.0})
        seen = scrape(endpoint)
        assert seen["metronorm_metric", (("name", name), ("team", 'a "b"\n'))] == 1.0
        assert ("metronorm_phase_seconds_total", (("phase", name), ("team", 'a "b"\n'))) in seen


def test_resources_of_the_machine_have_units(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        pass  # a last sample is taken when it closes
    with serve(clock, port=0) as endpoint:
        seen = scrape(endpoint)
    sample = clock.latest_resources
    assert seen["metronorm_memory_bytes", ()] == sample["memory_bytes"]
    assert seen["metronorm_processor_seconds_total", ()] == sample["processor_ns"] / 1e9


def test_scrapes_while_it_trains(tmp_path: Path) -> None:
    """Each sees some whole tick, never less than one before."""
    with (
        Clock(tmp_path / "run", progress=False) as clock,
        serve(clock, port=0) as endpoint,
    ):
        done = threading.Event()
        seen: list[dict[Key, float]] = []

        def scrape_on() -> None:
            while not done.is_set():
                seen.append(scrape(endpoint))

        thread = threading.Thread(target=scrape_on)
        thread.start()
        for number in clock.ticks(iter(int, 1)):
            with clock.phase(f"phase {clock.tick % 50}"):
                clock.log(**{f"metric {clock.tick % 50}": number, "tick is": clock.tick})
            if len(seen) > 20:
                clock.stop()
        done.set()
        thread.join()
    ticks = [one.get(("metronorm_ticks_total", ()), 0.0) for one in seen]
    assert ticks == sorted(ticks)
    assert ticks[-1] > 0


def test_a_closed_endpoint_does_not_answer(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        endpoint = serve(clock, port=0)
        scrape(endpoint)
        with pytest.raises(ConfigError, match=r"a free port.*try: port=0"):
            serve(clock, port=endpoint.port)
        endpoint.close()
        endpoint.close()
        with pytest.raises(OSError, match="refused"):
            scrape(endpoint)
        with serve(clock, port=endpoint.port) as again:
            assert again.port == endpoint.port
            scrape(again)


@pytest.mark.parametrize("name", ["rank", "gpu", "name", "a-b", "1", "", "__a"])
def test_labels_that_are_not_valid(tmp_path: Path, name: str) -> None:
    with (
        Clock(tmp_path / "run", progress=False) as clock,
        pytest.raises(ConfigError, match="name must be letters"),
    ):
        serve(clock, port=0, labels={name: "x"})


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be entered"):
        serve(Clock(tmp_path / "run"), port=0)
    with Clock(tmp_path / "run", progress=False) as clock:
        for port, host in ((-1, "127.0.0.1"), (0, "nowhere.invalid")):
            with pytest.raises(ConfigError, match="a free port"):
                serve(clock, port=port, host=host)


def test_without_prometheus_client_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "metronorm.integrations.prometheus")
    with pytest.raises(MissingDependencyError, match=r"pip install 'metronorm\[prometheus\]'"):
        importlib.import_module("metronorm.integrations.prometheus")
