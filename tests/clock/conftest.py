"""Rings of a test's own."""

from pathlib import Path

import pytest

from metronorm.clock.store import ring, writer

SMALL = 64 << 10


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of rings that no other test takes for those of dead processes."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(ring, "_shared_folder", lambda: folder)
    return folder


@pytest.fixture
def small_rings(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same; those of ticks are soon full."""
    monkeypatch.setitem(writer.CAPACITIES, "ticks", SMALL)
    return shared
