"""Sound: decoded, resampled, its spectrogram and its pitch, beside equations."""

import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metronorm.data.pitch import find_pitch
from metronorm.data.sound import read_sound, resample
from metronorm.data.spectrogram import FLOOR, frames, log_mel, mel_filters
from metronorm.errors import ConfigError, DataError, MissingDependencyError

RATE = 16_000


def tone(hertz: float, rate: int, seconds: float) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return np.sin(2 * np.pi * hertz * times).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    """A WAV of 16 bits, by the standard library; samples are (frames,) or (frames, channels)."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1] if samples.ndim > 1 else 1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path


# --- decoding -----------------------------------------------------------------------------------


def test_channels_become_their_mean(tmp_path: Path) -> None:
    both = np.stack([tone(440, RATE, 0.1), 0.5 * tone(550, RATE, 0.1)], axis=1)
    samples, rate = read_sound(write(tmp_path / "a.wav", both))
    assert (samples.dtype, rate) == (np.float32, RATE)
    np.testing.assert_allclose(samples, both.mean(axis=1), atol=1e-4)


def test_a_vorbis_file_is_read_at_the_rate_that_is_wanted(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.ogg", 0.5 * tone(440, 22_050, 0.5), 22_050)
    samples, rate = read_sound(tmp_path / "a.ogg", rate=RATE)
    assert (len(samples), rate) == (8000, RATE)
    middle = slice(1000, 7000)
    np.testing.assert_allclose(samples[middle], 0.5 * tone(440, RATE, 0.5)[middle], atol=0.02)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.ogg", b"no sound at all", "libsndfile decodes.*text.ogg"),
        ("cut.ogg", b"OggS\0\2", "libsndfile decodes.*cut.ogg"),
        ("empty.wav", b"", "libsndfile decodes.*empty.wav"),
    ],
)
def test_what_cannot_be_decoded_is_named(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_sound(tmp_path / name)


def test_a_missing_file_a_folder_and_silence_of_no_length(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"readable; got .*none.wav: No such file"):
        read_sound(tmp_path / "none.wav")
    with pytest.raises(DataError, match="readable"):
        read_sound(tmp_path)
    with pytest.raises(DataError, match="must hold some"):
        read_sound(write(tmp_path / "nothing.wav", np.zeros(0)))


def test_sound_that_is_not_finite(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    values = np.array([0.0, np.nan], np.float32)
    soundfile.write(tmp_path / "a.wav", values, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"NaN or infinity in .*a\.wav"):
        read_sound(tmp_path / "a.wav")


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingDependencyError, match=r"metronorm\[sound\]"):
        read_sound(tmp_path / "a.wav")


# --- resampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "to"), [(22_050, 16_000), (8_000, 16_000), (44_100, 8_000)])
def test_a_resampled_tone_is_the_tone(rate: int, to: int) -> None:
    for hertz in (100.0, 1000.0, 0.4 * min(rate, to)):
        got = resample(tone(hertz, rate, 0.3), rate, to)
        wanted = tone(hertz, to, 0.3)
        assert len(got) == len(wanted)
        np.testing.assert_allclose(got[200:-200], wanted[200:-200], atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    got = resample(tone(7000, 22_050, 0.3), 22_050, 8_000)
    assert np.abs(got[200:-200]).max() < 1e-3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_frame_n_is_at_the_time_of_n(count: int, rate: int, to: int) -> None:
    got = resample(np.ones(count, np.float32), rate, to)
    assert len(got) == -(-count * to // rate)
    assert np.isfinite(got).all()


def test_a_rate_must_be_a_whole_number() -> None:
    for rate, to in ((0, 8000), (8000, 1.5), (8000, -1)):
        with pytest.raises(ConfigError, match="whole number from 1 on"):
            resample(np.zeros(3, np.float32), rate, to)  # type: ignore[arg-type]


# --- spectrogram --------------------------------------------------------------------------------


def mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def slow_log_mel(samples: np.ndarray, rate: int, bands: int, highest: float) -> np.ndarray:
    """The definition, in float64, without a fast transform."""
    width, hop, size = round(0.025 * rate), round(0.01 * rate), 512
    edges = np.linspace(mel(20), mel(highest), bands + 2)
    edges = 700 * (10 ** (edges / 2595) - 1)
    rows = []
    for middle in range(0, len(samples), hop):
        spectrum = np.zeros(size // 2 + 1, complex)
        for k in range(width):
            place = middle - width // 2 + k
            if 0 <= place < len(samples):
                value = samples[place] * np.sin(np.pi * k / width) ** 2
                turns = np.arange(size // 2 + 1) * k / size
                spectrum += value * np.exp(-2j * np.pi * turns)
        row = []
        for band in range(bands):
            left, top, right = edges[band : band + 3]
            total = 0.0
            for k, value in enumerate(spectrum):
                hertz = k * rate / size
                if left < hertz <= top:
                    total += abs(value) ** 2 * (hertz - left) / (top - left)
                elif top < hertz < right:
                    total += abs(value) ** 2 * (right - hertz) / (right - top)
            row.append(np.log(max(total, FLOOR)))
        rows.append(row)
    return np.array(rows)


def test_log_mel_is_that_of_the_definition() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    got = log_mel(samples, RATE, bands=20)
    wanted = slow_log_mel(samples.astype(np.float64), RATE, 20, 8000.0)
    assert got.shape == wanted.shape == (7, 20)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_silence_is_the_floor_and_a_tone_is_in_its_band() -> None:
    assert log_mel(np.zeros(5, np.float32), RATE).tolist() == [[np.float32(np.log(FLOOR))] * 80]
    edges = np.linspace(mel(20), mel(8000), 82)
    loudest = log_mel(tone(1000, RATE, 0.5), RATE)[10:-10].mean(axis=0).argmax()
    assert edges[loudest] < mel(1000) < edges[loudest + 2]


def test_frames_have_their_time_in_the_middle() -> None:
    samples = np.arange(1, 11, dtype=np.float32)
    assert frames(samples, 4, 3)[:, 2].tolist() == [1, 4, 7, 10]
    assert frames(samples, 4, 3)[0].tolist() == [0, 0, 1, 2]


def test_bands_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="lie between 0 and 8,000"):
        mel_filters(RATE, 512, 80, 20, 9000)
    with pytest.raises(ConfigError, match="hold a frequency"):
        log_mel(np.ones(400, np.float32), RATE, bands=300)
    with pytest.raises(DataError, match="must be samples"):
        log_mel(np.zeros(0, np.float32), RATE)


# --- pitch --------------------------------------------------------------------------------------


def voice(hertz: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Harmonics of a pitch that changes with every sample."""
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    whole = sum(np.sin(k * phase) / k for k in range(1, 8))
    return (0.2 * whole).astype(np.float32)


@pytest.mark.parametrize("hertz", [80.0, 123.4, 220.0, 450.0])
def test_the_pitch_of_a_voice(hertz: float) -> None:
    got = find_pitch(voice(np.full(RATE // 2, hertz)), RATE)
    assert len(got.hertz) == 50
    np.testing.assert_allclose(got.hertz[5:-5], hertz, rtol=2e-3)
    assert (got.strength[5:-5] > 0.95).all()


def test_a_pitch_that_glides_is_followed() -> None:
    course = np.linspace(120, 300, RATE)
    got = find_pitch(voice(course), RATE).hertz
    np.testing.assert_allclose(got[5:-5], course[:: RATE // 100][5:-5], rtol=0.02)


def test_silence_and_noise_have_no_pitch() -> None:
    chance = np.random.default_rng(0)
    sound = np.concatenate([voice(np.full(RATE // 4, 200.0)), np.zeros(RATE // 4, np.float32)])
    got = find_pitch(sound, RATE).hertz
    assert (got[2:22] > 0).all()
    assert (got[30:] == 0).all()
    noise = find_pitch(chance.normal(0, 0.1, RATE // 2).astype(np.float32), RATE).hertz
    assert (noise > 0).mean() < 0.1


def test_a_range_of_pitch_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="a pitch in sound of 16,000 Hz"):
        find_pitch(np.zeros(100, np.float32), RATE, lowest=300, highest=200)
