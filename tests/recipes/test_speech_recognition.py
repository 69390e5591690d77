"""The recipe of dictation, on a few real lines: it learns, resumes, and decodes what it wrote."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from metronorm.cli import main
from metronorm.data.packages import debian_folder
from metronorm.errors import DataError
from metronorm.runs import open_run

from ..real_data import needs_fillets
from ..train.acting import at_every_tick

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "speech_recognition.py"
sys.path.insert(0, str(ROOT / "recipes"))

import speech_recognition  # noqa: E402
from lib import ctc, dictation, results  # noqa: E402
from lib.decoding import LetterModel, rates  # noqa: E402
from lib.ngram import NGram  # noqa: E402

LEVELS = ("cancan", "noground", "rush", "stairs", "steel", "wc")  # the shortest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short levels: one to test on, one to watch."""
    made = tmp_path_factory.mktemp("game")
    game = debian_folder("fillets-ng-data", "usr/share/games/fillets-ng")
    for part in ("script", "sound"):
        (made / part).mkdir()
        for level in LEVELS:
            (made / part / level).symlink_to(game / part / level)
    return made


@pytest.fixture(scope="module")
def options(folder: Path) -> list[str]:
    chosen = {
        "folder": folder,
        "ticks": 40,
        "width": 32,
        "layers": 1,
        "frames": 1500,
        "dropout": 0.0,
        "ema": 0.8,
        "evaluate-every": 20,
        "checkpoint-every": 20,
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


@needs_fillets
def test_it_learns(trained: Path) -> None:
    rows = open_run(trained).ticks().rows()
    assert rows[0]["loss"] > 5, "nats per letter"
    assert np.mean([row["loss"] for row in rows[-5:]]) < 3.6
    assert {"test_cer", "test_plain_cer", "test_wer", "test_cer_ema"} <= rows[-1].keys()


@needs_fillets
def test_the_board_has_alignments_sound_and_transcripts(trained: Path) -> None:
    kinds = [each.kind for each in open_run(trained).samples()]
    lines = kinds.count("audio")
    assert 1 <= lines <= 4
    assert kinds.count("picture") == 2 * lines, "at each evaluation"
    assert kinds.count("table") == 2


@needs_fillets
def test_a_resumed_run_is_the_run(trained: Path, options: list[str], tmp_path: Path) -> None:
    def stop(tick: int) -> None:
        if tick == 23:
            os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    with at_every_tick(stop):
        command = ["train", "--recipe", str(SCRIPT), "--run", str(run), *options]
        assert main(command) == 128 + signal.SIGTERM
    assert main(["train", "--resume", str(run)]) == 0
    assert results.tested(run) == results.tested(trained)


@needs_fillets
def test_rates_of_a_trained_run_are_those_of_the_loop(trained: Path, folder: Path) -> None:
    parts = dictation.listen(str(folder))
    found = rates(trained, speech_recognition.net(32, 1), parts, "ema")
    tested = results.tested(trained)
    for name in ("cer", "plain_cer", "wer"):
        assert found[f"greedy_{name}"] == pytest.approx(tested[f"{name}_ema"], abs=0.02)
        assert found[f"ngram_{name}_low"] <= found[f"ngram_{name}"] <= found[f"ngram_{name}_high"]


@needs_fillets
def test_levels_are_apart_and_a_share_of_them_is_a_part(folder: Path) -> None:
    whole, half = dictation.listen(str(folder)), dictation.listen(str(folder), 0.5)
    levels = [{each.line.level for each in part} for part in whole]
    assert [len(each) for each in levels] == [4, 1, 1]
    assert not levels[0] & levels[1] | levels[0] & levels[2] | levels[1] & levels[2]
    assert {each.line.level for each in half.train} < levels[0]
    assert [each.text for each in half.test] == [each.text for each in whole.test]
    for each in whole.train:
        assert dictation.text_of(each.symbols.tolist()) == each.text
        assert len(each.features) >= 4 * len(each.symbols)


@needs_fillets
def test_too_few_levels_and_sound_that_is_none(folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for part in ("script", "sound"):
        (few / part).mkdir(parents=True)
        (few / part / "rush").symlink_to(folder / part / "rush")
    with pytest.raises(DataError, match="ten levels give one to test on"):
        dictation.listen(str(few))
    level = tmp_path / "broken" / "sound" / "rush" / "cs"
    level.mkdir(parents=True)
    (tmp_path / "broken" / "script").symlink_to(folder / "script")
    lines = dictation.listen(str(folder)).train
    name = next(each.line.path.name for each in lines if each.line.level == "rush")
    (level / name).write_bytes(b"no sound")
    with pytest.raises(DataError, match=f"libsndfile decodes.*{name}"):
        dictation.listen(str(tmp_path / "broken"))


def test_the_loss_is_that_of_all_paths() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4)
    batch = (None, None, torch.tensor([[1, 1], [3, 0]]), torch.tensor([2, 1]))
    got = speech_recognition.ctc_loss(logits, torch.tensor([5, 3]), batch)
    wanted = 0.0
    for row, time, text in ((0, 5, (1, 1)), (1, 3, (3,))):
        scores = logits[row, :time].double().log_softmax(-1).numpy()
        wanted -= np.log(sum_over_paths(scores, text))
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def sum_over_paths(scores: np.ndarray, text: tuple[int, ...]) -> float:
    import itertools

    total = 0.0
    for path in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        kept = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != ctc.BLANK)
        if kept == text:
            total += float(np.exp(sum(scores[t, symbol] for t, symbol in enumerate(path))))
    return total


def test_the_language_model_is_the_n_gram_model() -> None:
    texts = ["ano", "ale ano", "na lavici"]
    model = LetterModel(texts, order=3)
    spelled = [dictation.spell(text).tolist() for text in texts]
    plain = NGram(spelled, order=3, alphabet=range(1, dictation.SYMBOLS))
    symbols = tuple(dictation.spell("ale vlna").tolist())
    nats = [model(symbols[:place], symbol) for place, symbol in enumerate(symbols)]
    np.testing.assert_allclose(nats, -np.log(2) * plain.bits(symbols)[:-1], rtol=1e-9)


def test_frames_needed_are_what_ctc_needs() -> None:
    symbols = dictation.spell("oooo")
    frames = dictation.frames_needed(symbols) // dictation.FEWER
    assert frames >= 7
    scores = torch.zeros(frames, 1, 3).log_softmax(-1)
    loss = torch.nn.functional.ctc_loss(
        scores, torch.ones(1, 4, dtype=torch.long), torch.tensor([frames]), torch.tensor([4])
    )
    assert torch.isfinite(loss)
