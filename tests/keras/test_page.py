"""The pages with Keras, on the backend they are written for."""

from pathlib import Path

import keras
import pytest

from ..test_docs import KERAS, TUTORIALS, run_page

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="is run on TensorFlow"
)


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(KERAS, capsys)


def test_the_second_python_of_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(TUTORIALS[0], capsys, lambda code: "tensorflow" in code)
