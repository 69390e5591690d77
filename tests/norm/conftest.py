"""The fixture `backend`: a test that uses it runs once with each backend of this CPU."""

import warnings
from collections.abc import Iterator

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # without kernels: test_kernels.py reports it
    from metronorm.norm import kernels


@pytest.fixture(params=kernels.backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.use(request.param):
        yield request.param
