"""The recipe of tones, on a part of the real syllables, and its features beside what they mean."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from metronorm.checkpoints.folder import newest_checkpoint
from metronorm.cli import main
from metronorm.data.speech import SPEAKERS, mandarin_syllables
from metronorm.runs import open_run

from ..real_data import needs_gcin_voice
from ..train.acting import at_every_tick

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "speech_tones.py"
sys.path.insert(0, str(ROOT / "recipes"))

from lib import contours, results  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each tone 16 syllables that both have said, and all neutral ones."""
    made = tmp_path_factory.mktemp("syllables")
    both = [each.path.parent for each in mandarin_syllables() if each.speaker == SPEAKERS[1]]
    count = dict.fromkeys("1234", 0)
    for path in sorted(both):
        digit = path.name[-1] if path.name[-1] in "1234" else "0"
        count[digit] = count.get(digit, 0) + 1
        if count[digit] <= 16:
            (made / path.name).symlink_to(path)
    return made


@pytest.fixture(scope="module")
def options(folder: Path) -> list[str]:
    chosen = {
        "folder": folder,
        "ticks": 60,
        "width": 32,
        "layers": 1,
        "evaluate-every": 30,
        "checkpoint-every": 30,
        "precision": "fp32",
        "allocator": "system",
        "device": "cpu",
    }
    return [str(word) for name, value in chosen.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--recipe", str(SCRIPT), "--run", str(run), *options]) == 0
    return run


@needs_gcin_voice
def test_it_learns_and_is_tested_on_the_other_speaker(trained: Path) -> None:
    rows = open_run(trained).ticks().rows()
    assert np.mean([row["loss"] for row in rows[:3]]) > 1.2
    assert np.mean([row["loss"] for row in rows[-10:]]) < 1.0
    assert rows[-1]["test_accuracy"] > 0.5, "a guess is right once in four"
    assert 0 <= contours.macro_f1(results.tested(trained)) <= 1


@needs_gcin_voice
def test_the_board_has_pictures_sound_and_confusions(trained: Path) -> None:
    kinds = [each.kind for each in open_run(trained).samples()]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "table": 1, "picture": 4, "audio": 4,
    }  # fmt: skip


@needs_gcin_voice
def test_a_resumed_run_is_the_run(trained: Path, options: list[str], tmp_path: Path) -> None:
    def stop(tick: int) -> None:
        if tick == 33:
            os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    with at_every_tick(stop):
        command = ["train", "--recipe", str(SCRIPT), "--run", str(run), *options]
        assert main(command) == 128 + signal.SIGTERM
    assert newest_checkpoint(run / "checkpoints").tick == 33
    assert main(["train", "--resume", str(run)]) == 0
    assert results.tested(run) == results.tested(trained)


@needs_gcin_voice
def test_the_baseline_tells_the_tones_of_a_speaker_it_knows(folder: Path) -> None:
    whole = contours.listen(str(folder), "5", "speaker")
    odd = np.arange(len(whole.tones)) % 2 == 1
    found = contours.by_hand(whole.part(~odd), whole.part(odd))
    assert found["majority_accuracy"] < 0.4
    assert found["svm_accuracy"] > 0.7
    assert 0 < found["svm_macro_f1"] <= 1


@needs_gcin_voice
def test_pitch_is_around_the_median(folder: Path) -> None:
    syllable = contours.listen(str(folder), "3", "syllable")
    for row in syllable.rows:
        voiced = row[row[:, contours.VOICED] > 0, contours.PITCH]
        assert not len(voiced) or abs(np.median(voiced)) < 0.01
    speaker = contours.listen(str(folder), "5", "speaker")
    pitch = [row[row[:, contours.VOICED] > 0, contours.PITCH] for row in speaker.rows]
    assert abs(np.median(np.concatenate(pitch))) < 0.01
    highest, lowest = (
        [
            np.median(row)
            for row, told in zip(pitch, speaker.tones, strict=True)
            if told == tone and len(row)
        ]
        for tone in (0, 2)
    )
    assert np.mean(highest) > np.mean(lowest), "the first tone is high, the third low"


def test_semitones_are_those_of_equal_temperament() -> None:
    hertz = np.array([0, 55, 0, 110, 0], np.float32)
    np.testing.assert_allclose(contours.semitones(hertz), [0, 0, 6, 12, 12])
    assert not contours.semitones(np.zeros(3, np.float32)).any()


def test_rates_are_those_of_scikit_learn() -> None:
    chance = np.random.default_rng(0)
    wanted, got = chance.integers(0, 5, (2, 300))
    sums = contours.tone_rates(wanted, got)
    values = {name: total / number for name, (total, number) in sums.items()}
    assert contours.macro_f1(values) == pytest.approx(f1_score(wanted, got, average="macro"))
    full = wanted < 4
    assert values["accuracy"] == pytest.approx((wanted == got)[full].mean())


def test_a_tenth_of_every_tone_is_held_out() -> None:
    tones = np.array([0] * 25 + [4] * 3)
    held_out = contours.every_tenth(tones)
    assert held_out[tones == 0].sum() == 3
    assert held_out[tones == 4].sum() == 1


def test_variation_keeps_the_melody_and_the_rest_is_random() -> None:
    row = np.ones((40, contours.MELODY + contours.BANDS), np.float32)
    row[:, contours.PITCH] = np.linspace(1, -1, 40)
    found: Any = [
        contours.varied(row, np.random.default_rng(seed), shift=0.15) for seed in range(40)
    ]
    assert all(each.shape[1] == row.shape[1] and 20 <= len(each) <= 52 for each in found)
    assert len({len(each) for each in found}) > 5
    for each in found:
        assert (np.diff(each[each[:, contours.VOICED] > 0.5, contours.PITCH]) < 0).all()
    voiced = np.array([each[:, contours.VOICED].mean() for each in found])
    assert 0.3 < (voiced < 1).mean() < 0.7
    bands = np.array([each[:, contours.MELODY :].any() for each in found])
    assert 0.3 < bands.mean() < 0.7
    again = contours.varied(row, np.random.default_rng(3), shift=0.15)
    assert (again == found[3]).all()


def test_short_stretches_of_pitch_are_left_out() -> None:
    hertz = np.array([0, 500, 500, 0, 100, 100, 100, 100, 100, 0, 90], np.float32)
    wanted = [0, 0, 0, 0, 100, 100, 100, 100, 100, 0, 0]
    assert contours.without_scraps(hertz).tolist() == wanted
    assert contours.without_scraps(hertz[:4]).tolist() == [0, 500, 500, 0]
    assert not contours.without_scraps(np.zeros(5, np.float32)).any()


@needs_gcin_voice
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--speaker", "4"], "one of 3, 5"),
        (["--folder", "nowhere"], "SYLLABLE/SPEAKER.ogg; got nowhere"),
    ],
)
def test_bad_input_ends_in_a_line(
    wrong: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["train", "--recipe", str(SCRIPT), "--run", str(tmp_path / "run"), *wrong])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert said in capsys.readouterr().err
