"""The page about Keras, on the backend it is written for."""

from pathlib import Path

import keras
import pytest

from ..test_docs import KERAS, run_page


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="is run on TensorFlow")
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(KERAS, capsys)
