"""`backend`: a test that asks for it runs once with each of the processor's backends."""

from collections.abc import Iterator

import pytest

from metronorm.norm import kernels


@pytest.fixture(params=kernels.backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.use(request.param):
        yield request.param
