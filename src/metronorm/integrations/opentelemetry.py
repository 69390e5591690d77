"""OpenTelemetry: instruments that tell what a clock measures."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary

from metronorm import __version__
from metronorm.errors import MissingDependencyError
from metronorm.integrations.measures import MEASURES, observe, values

try:
    from opentelemetry.metrics import Observation, get_meter_provider
except ImportError as error:
    raise MissingDependencyError(
        "this needs the package opentelemetry-api", fix="pip install 'metronorm[opentelemetry]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from metronorm.clock import Clock
    from metronorm.integrations.measures import Measure

    Observed = list[tuple[Clock, dict[str, str]]]

# An instrument cannot be taken back, and a second one of its name is ignored: they are made once
# per provider, and look at the clocks that are observed at the time.
_observed: WeakKeyDictionary[MeterProvider, Observed] = WeakKeyDictionary()


def instrument(clock: Clock, meter_provider: MeterProvider | None = None) -> Instrumentation:
    """Let OpenTelemetry observe what the clock measures, under names that begin with `metronorm.`.

    Training pays nothing for it: the clock's newest record is looked at when a reader collects.

    Args:
        clock: entered already.
        meter_provider: where the instruments are made; None: the global one, which must be set by
            now.

    Raises:
        ConfigError: the clock is not entered.
    """
    attributes = observe(clock)
    provider = meter_provider or get_meter_provider()
    observed = _observed.get(provider)
    if observed is None:
        observed = _observed[provider] = []
        _make_instruments(provider, observed)
    return Instrumentation(observed, clock, attributes)


class Instrumentation:
    """Lasts until it is closed; also as `with instrument(clock):`."""

    def __init__(self, observed: Observed, clock: Clock, attributes: dict[str, str]) -> None:
        self._observed = observed
        self._entry = clock, attributes
        observed.append(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Tell nothing of the clock any more; closing twice does nothing."""
        self._observed[:] = [entry for entry in self._observed if entry is not self._entry]


def _make_instruments(provider: MeterProvider, observed: Observed) -> None:
    meter = provider.get_meter("metronorm", __version__)
    for measure in MEASURES:
        make = meter.create_observable_counter if measure.counted else meter.create_observable_gauge
        make(
            f"metronorm.{measure.name}",
            callbacks=[partial(_observe, observed, measure)],
            unit=measure.unit,
            description=measure.meaning,
        )


def _observe(observed: Observed, measure: Measure, _: CallbackOptions) -> Iterator[Observation]:
    for clock, attributes in tuple(observed):
        for found, labels, value in values(clock):
            if found is measure:
                yield Observation(value, attributes | labels)
