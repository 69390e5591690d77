"""Cached columns: as good as the parts, made again where they are not, and always deletable."""

import shutil
from pathlib import Path

import pytest

from metronorm.board.series import Chart, RunSeries
from metronorm.board.series import cache as cache_module
from metronorm.board.series import parts as parts_module
from metronorm.store.sealing import seal_run

from ...store.stores import line, new_run, write_tape

NAMES = ["loss", "rare", "forward_ns"]


@pytest.fixture
def run(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two parts and some lines, with values that are missing, NaN and infinite."""
    monkeypatch.setattr(parts_module, "LEAST_ROWS", 50)
    run = new_run(tmp_path / "run")
    add(run, 1, 41)
    add(run, 41, 81)
    return run


def add(run: Path, first: int, end: int) -> None:
    lines = []
    for tick in range(first, end):
        metrics: dict[str, float | str] = {"loss": "nan" if tick % 9 == 0 else 1 / tick}
        if tick % 10 == 0:
            metrics["rare"] = "inf" if tick == 70 else float(tick)
        lines.append(line(tick, metrics))
    write_tape(run, lines)
    seal_run(run)


def answer(run: Path, *, cache: bool = True) -> bytes:
    return RunSeries(run, cache=cache).reduce(NAMES, Chart(width=10)).to_bytes()


def cached(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (run / "board/levels").rglob("*.f8")}


def test_the_answers_are_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = answer(run, cache=False)
    assert not (run / "board").exists()
    assert answer(run) == plain
    assert len(cached(run)) == len(NAMES)
    with monkeypatch.context() as patched:  # nothing is read from the parts but ticks and times
        patched.setattr(parts_module, "identifier", lambda name: f"no column {name}")
        assert answer(run) == plain
    shutil.rmtree(run / "board")
    assert answer(run) == plain
    assert len(cached(run)) == len(NAMES)


def test_a_new_part_is_added(run: Path) -> None:
    answer(run)
    before = cached(run)
    add(run, 81, 121)
    plain = answer(run, cache=False)
    assert answer(run) == answer(run) == plain
    after = cached(run)
    assert before.keys() == after.keys()
    assert all(len(after[path]) >= len(data) + 40 * 8 for path, data in before.items())


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "head", "folder", "other part"])
def test_damage_is_made_good(run: Path, damage: str) -> None:
    plain = answer(run)
    good = cached(run)
    for path, data in good.items():
        if damage == "cut":
            path.write_bytes(data[:-8])
        elif damage == "changed":
            path.write_bytes(data[:-8] + bytes(8))
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "head":
            path.write_bytes(b"\xff" * len(data))
        elif damage == "folder":
            path.unlink()
            path.mkdir()
    if damage == "other part":
        shutil.rmtree(run / "ticks")
        write_tape(run, [line(tick, {"loss": 5.0}) for tick in range(1, 61)])
        seal_run(run)
        plain = answer(run, cache=False)
    assert answer(run) == plain
    if damage not in ("folder", "other part"):
        assert cached(run) == good


def test_a_folder_that_cannot_be_written_does_not_matter(run: Path) -> None:
    (run / "board").write_text("a file")
    assert answer(run) == answer(run, cache=False)
    assert cache_module.LEAST_ROWS == 2_000_000


def test_nothing_is_written_through_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "board").symlink_to(tmp_path / "elsewhere")
    assert answer(run) == answer(run, cache=False)
    assert not list((tmp_path / "elsewhere").iterdir())
