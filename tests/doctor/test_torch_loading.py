"""Torch is loaded by another process, which may crash; what it has said before is kept."""

from pathlib import Path

import pytest

from metronorm.doctor.torch_loading import load_torch


def torch_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module torch before the real one."""
    (folder / "torch.py").write_text(does)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_crash_is_named_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_that("import os, signal; os.kill(os.getpid(), signal.SIGILL)", tmp_path, monkeypatch)
    assert load_torch() == ({}, "its process was ended by SIGILL")


def test_an_error_is_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_that("raise OSError('libcudart.so.13: no such file')", tmp_path, monkeypatch)
    assert load_torch() == ({}, "OSError: libcudart.so.13: no such file")


def test_what_was_found_before_a_crash_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_that(
        'print(\'{"version": "3"}\', flush=True); import os; os.abort()', tmp_path, monkeypatch
    )
    assert load_torch() == ({"version": "3"}, "its process was ended by SIGABRT")


def test_it_has_a_limit_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch_that("import threading; threading.Event().wait()", tmp_path, monkeypatch)
    assert load_torch(0.01) == ({}, "it was not loaded after 0.01 s")
