from pathlib import Path
from types import SimpleNamespace
from typing import Any

from metronorm.clock import Clock
from metronorm.integrations.measures import MEASURES, RESOURCES, observe, values


def values_of(**resources: float) -> list[tuple[str, dict[str, str], float]]:
    clock: Any = SimpleNamespace(latest=None, dropped=0, latest_resources=resources)
    return [(found.name, labels, value) for found, labels, value in values(clock)][1:]


def test_gpus_are_a_label() -> None:
    assert values_of(gpu0_memory_bytes=5, gpu11_memory_bytes=7, gpu11_utilization=0.5) == [
        ("gpu_memory", {"gpu": "0"}, 5),
        ("gpu_memory", {"gpu": "11"}, 7),
        ("gpu_utilization", {"gpu": "11"}, 0.5),
    ]


def test_units_and_unknown_resources() -> None:
    assert values_of(processor_ns=2_500_000_000, machine_mood=1.0) == [("processor", {}, 2.5)]


def test_everything_that_is_sampled_has_a_measure(tmp_path: Path) -> None:
    with Clock(tmp_path / "run", progress=False) as clock:
        pass  # a last sample is taken when it closes
    assert clock.latest_resources
    assert clock.latest_resources.keys() - RESOURCES.keys() == set()
    assert observe(clock) == {"run": "run", "attempt": "0", "rank": "0"}


def test_names_are_the_measures_own() -> None:
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
