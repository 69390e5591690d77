"""`backend`: a test that asks for it runs once with each of the processor's backends."""

import warnings
from collections.abc import Iterator

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # no kernels: test_kernels.py says so
    from metronorm.norm import kernels


@pytest.fixture(params=kernels.backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.use(request.param):
        yield request.param
