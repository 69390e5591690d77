"""A browser for the tests of the page, and a board of the runs of `page_runs`.

A file of tests with other runs has its own `folder`; `board` shows those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .boards import Served, serving
from .browsers import chromium
from .page_runs import record_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")  # while Playwright runs, no other test of this process has asyncio
def browser() -> Iterator[Browser]:
    """A real Chromium; without one, the test is skipped."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs."""
    folder = tmp_path_factory.mktemp("runs")
    record_all(folder)
    return folder


@pytest.fixture(scope="module")
def board(folder: Path) -> Iterator[Served]:
    """A board of these runs."""
    with serving(folder) as served:
        yield served


@pytest.fixture(scope="module")
def odd(board: Served) -> str:
    """The id of the run with values that have no place on an axis."""
    return str(board.runs()["odd"]["id"])
