"""What tests of several processes have in common, as it takes seconds to make."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .faults import Result, undisturbed
from .forked_ranks import Ranks

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Forks ranks, out of a process that has torch loaded."""
    with Ranks() as found:
        yield found


@pytest.fixture(scope="session")
def judge(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What becomes of a training that is not disturbed."""
    return undisturbed(ranks, tmp_path_factory.mktemp("judge"), "ticks")
