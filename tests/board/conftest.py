"""A browser for the tests of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .browsers import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser


@pytest.fixture(scope="module")  # while Playwright runs, no other test of this process has asyncio
def browser() -> Iterator[Browser]:
    """A real Chromium; without one, the test is skipped."""
    with chromium() as found:
        yield found
