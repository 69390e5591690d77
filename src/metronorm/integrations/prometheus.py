"""Prometheus: an endpoint with the values of a clock, by `prometheus_client`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from metronorm.errors import ConfigError
from metronorm.integrations._packages import needs
from metronorm.integrations.measures import IDENTITY, observe, values

with needs("prometheus_client", fix="pip install 'metronorm[prometheus]'"):
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from metronorm.clock import Clock
    from metronorm.integrations.measures import Measure

_UNITS = {
    "s": "_seconds",
    "By": "_bytes",
    "1": "_ratio",
    "W": "_watts",
    "Cel": "_celsius",
    "J": "_joules",
}
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN = {*IDENTITY, "gpu", "name", "phase"}


def serve(
    clock: Clock,
    *,
    port: int = 9464,
    host: str = "127.0.0.1",
    labels: Mapping[str, str] | None = None,
) -> Endpoint:
    """Serve the values of a clock at `http://HOST:PORT/metrics`.

    It costs the training thread nothing: another thread reads the clock's newest record when
    Prometheus asks.

    Args:
        clock: a clock that is entered.
        port: the port; 0 takes any free one. Several ranks on a machine need one port each.
        host: the address to listen at; by default only this machine can ask. Nothing protects the
            endpoint: `0.0.0.0` opens it to the network.
        labels: labels for all values, beside `run`, `attempt` and `rank`.

    Raises:
        ConfigError: the clock is not entered, the port is in use, or a label's name is not valid.
    """
    known = dict(labels or {})
    bad = [name for name in known if name in _TAKEN or not _LABEL.fullmatch(name)]
    if bad:
        raise ConfigError(
            "a label's name must be letters, digits and _, and must not be one of "
            f"{', '.join(sorted(_TAKEN))}",
            got=repr(bad[0]),
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ClockCollector(clock, observe(clock) | known))
    try:
        return Endpoint(port, host, registry)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "the endpoint needs a free port",
            got=f"{host}:{port} ({getattr(error, 'strerror', None) or error})",
            fix="port=0 for any, or port=9464 + clock.rank",
        ) from None


class Endpoint:
    """An endpoint that serves until it is closed; also as `with serve(clock):`."""

    def __init__(self, port: int, host: str, registry: CollectorRegistry) -> None:
        self._server, self._thread = start_http_server(port, host, registry)
        self.port: int = self._server.server_port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; closing twice does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _ClockCollector(Collector):
    def __init__(self, clock: Clock, labels: dict[str, str]) -> None:
        self._clock, self._labels = clock, labels

    def collect(self) -> Iterator[Metric]:
        families: dict[Measure, CounterMetricFamily | GaugeMetricFamily] = {}
        for measure, labels, value in values(self._clock):
            labels = self._labels | labels
            family = families.get(measure)
            if family is None:
                kind = CounterMetricFamily if measure.counted else GaugeMetricFamily
                name = f"metronorm_{measure.name}{_UNITS.get(measure.unit, '')}"
                family = families[measure] = kind(name, measure.meaning, labels=list(labels))
            family.add_metric(list(labels.values()), value)
        yield from families.values()
