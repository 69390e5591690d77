"""The files of samples: names that are safe for any name, PNG and WAV that others read."""

import io
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metronorm.store.samples import file_stem, is_safe, png, sample_folder, wav


@given(st.text())
def test_any_name_becomes_a_name_of_a_visible_file(name: str) -> None:
    stem = file_stem(name)
    assert 0 < len(stem.encode()) <= 100
    assert not stem.startswith((".", "-"))
    assert not any(sign in stem for sign in '/\\\0\n\x1b*?"<>|: ')
    assert is_safe(f"{stem}-2.png")
    assert file_stem(stem) == stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("validation/picture 1", "validation_picture_1"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "sample"),
        ("", "sample"),
        ("-rf", "rf"),
        ("Größe.2", "Größe.2"),
        ("\ud800\x1b[2J", "_2J"),
        ("é" * 80, "é" * 50),
    ],
)
def test_names(name: str, stem: str) -> None:
    assert file_stem(name) == stem


@pytest.mark.parametrize("name", ["", "..", ".a", "a/b.png", "a\0.png", "-a"])
def test_what_no_sample_is_called(name: str) -> None:
    assert not is_safe(name)


def test_the_folder() -> None:
    assert str(sample_folder(1, 2, 30)) == "samples/attempt=1/rank=2/tick=30"


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (4, 7, 1), (4, 7, 3), (6, 5, 4)])
def test_pictures(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    read = Image.open(io.BytesIO(png(pixels.tobytes(), *shape[:2])))
    read.load()
    assert np.array_equal(np.asarray(read).reshape(shape), pixels)


@pytest.mark.parametrize("channels", [1, 2])
def test_audio(channels: int) -> None:
    frames = np.random.default_rng(0).integers(-(2**15), 2**15, (9, channels)).astype("<i2")
    with wave.open(io.BytesIO(wav(frames.tobytes(), 16_000, channels))) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (
            channels,
            2,
            16_000,
        )
        assert read.readframes(99) == frames.tobytes()
