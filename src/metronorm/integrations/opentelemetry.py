"""OpenTelemetry: instruments with the values of a clock."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self
from weakref import WeakKeyDictionary

from metronorm import __version__
from metronorm.integrations._packages import needs
from metronorm.integrations.measures import MEASURES, observe, values

with needs("opentelemetry", fix="pip install 'metronorm[opentelemetry]'"):
    from opentelemetry.metrics import Observation, get_meter_provider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from metronorm.clock import Clock
    from metronorm.integrations.measures import Measure

    Observed = list[tuple[Clock, dict[str, str]]]

# A provider cannot remove an instrument, and ignores a second one of the same name. So instruments
# are made once per provider, and read the clocks that are in this list when they are asked.
_observed: WeakKeyDictionary[MeterProvider, Observed] = WeakKeyDictionary()


def instrument(clock: Clock, meter_provider: MeterProvider | None = None) -> Instrumentation:
    """Let OpenTelemetry observe the values of a clock, under names that begin with `metronorm.`.

    It costs the training thread nothing: the clock's newest record is read when a reader collects.

    Args:
        clock: a clock that is entered.
        meter_provider: the provider for the instruments; None: the global one, which must be set
            already.

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
    """The observation of a clock, until it is closed; also as `with instrument(clock):`."""

    def __init__(self, observed: Observed, clock: Clock, attributes: dict[str, str]) -> None:
        self._observed = observed
        self._entry = clock, attributes
        observed.append(self._entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop observing the clock; closing twice does nothing."""
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
