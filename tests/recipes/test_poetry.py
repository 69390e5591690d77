"""The recipe of poems: tokens, rows, bits and rules of the form, and a GPT that learns."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metronorm.cli import main
from metronorm.cli.recipe import load_recipe
from metronorm.data.packages import npm_folder
from metronorm.models import GPT, GPTConfig
from metronorm.runs import open_run

from ..data.poem_files import write
from ..real_data import needs_poems

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "poetry.py"
sys.path.insert(0, str(ROOT / "recipes"))

from lib import hanzi  # noqa: E402
from lib.hanzi import Characters, Form, batches, bits, form, is_even, lines, rows  # noqa: E402
from lib.ngram import NGram  # noqa: E402

QUATRAIN = "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。"


def test_a_rare_character_is_its_bytes() -> None:
    characters = Characters(["春春，，", "夏，"])
    assert characters.characters == ["春", "，"]
    assert len(characters) == 256 + 1 + 2
    tokens = characters.encode("春夏，a")
    assert tokens == [257, *"夏".encode(), 258, 97]
    assert characters.decode([256, *tokens, 256]) == "春夏，a"
    assert characters.decode([257, 0xE5, 257]) == "春\ufffd春"
    every, of_han = (table[tokens].sum() for table in characters.counts())
    assert (every, of_han) == (4, 3)  # a byte may be of any character: it counts as Han
    assert characters.stream(["春", "，"]).tolist() == [256, 257, 256, 258, 256]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 9))
def test_every_token_of_a_text_is_predicted_once(tokens: list[int], context: int) -> None:
    found = [*rows(tokens, 99, context)]
    assert [each for _, targets in found for each in targets if each != -100] == [*tokens, 99]
    whole, place = [99, *tokens, 99], 0
    for inputs, targets in found:
        assert len(inputs) == len(targets) <= context
        assert inputs == whole[place : place + len(inputs)]
        for target, following in zip(targets, whole[place + 1 :], strict=False):
            assert target in (-100, following)
        place += max(1, context // 2)


def test_batches_are_padded_and_sorted() -> None:
    (first, targets), (second, _) = batches([[1, 2, 3], [4], [5, 6]], 9, 8, 2)
    assert first.tolist() == [[9, 4, 9], [9, 5, 6]]
    assert targets.tolist() == [[4, 9, -100], [5, 6, 9]]
    assert second.tolist() == [[9, 1, 2, 3]]


def test_bits_are_those_of_single_predictions() -> None:
    characters = Characters([QUATRAIN, QUATRAIN, "春春。"])
    texts = [QUATRAIN, "春夏，a。"]
    counted = tuple(map(torch.from_numpy, characters.counts()))
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(vocab_size=len(characters), context=8, layers=1, heads=2, width=16)
    ).eval()
    recipe = sys.modules[load_recipe(str(SCRIPT)).task.__module__]
    encoded = [characters.encode(text) for text in texts]
    sums: dict[str, list[float]] = {}
    for inputs, targets in batches(encoded, characters.end, 8, 3):
        batch = torch.from_numpy(inputs), torch.from_numpy(targets)
        with torch.no_grad():
            for name, pair in recipe.measure(model, batch, counted).items():
                total = sums.setdefault(name, [0.0, 0.0])
                part, divisor = pair if isinstance(pair, tuple) else (pair, 1)
                total[0] += float(part)
                total[1] += float(divisor)
    every = of_han = 0.0
    for tokens in encoded:
        for inputs, targets in rows(tokens, characters.end, 8):
            with torch.no_grad():
                chances = model(torch.tensor([inputs]))[0].double().log_softmax(-1)
            for place, target in enumerate(targets):
                if target != -100:
                    cost = -float(chances[place, target]) / math.log(2)
                    every += cost
                    is_han = target < 256 or (
                        target > 256 and "\u4e00" <= characters.characters[target - 257] <= "\u9fff"
                    )
                    of_han += cost * is_han
    assert sums["bits_per_character"] == pytest.approx([every, 24 + 5], rel=1e-5)
    assert sums["bits_per_han"] == pytest.approx([of_han, 20 + 3], rel=1e-5)
    assert sums["loss"][0] == pytest.approx(every * math.log(2), rel=1e-5)

    gram = NGram(map(characters.encode, [QUATRAIN]), order=2, alphabet=range(len(characters)))
    each = [gram.bits(tokens) for tokens in encoded]
    whole, part = bits(gram, texts, characters)
    assert whole == pytest.approx(sum(one.sum() for one in each) / 29)
    assert part < whole * 2
    stops = sum(one[place] for one, text in zip(each, [QUATRAIN], strict=False)
                for place, sign in enumerate(text) if sign in "，。")  # fmt: skip
    ends = sum(one[-1] for one in each)
    rest = each[1][4] + each[1][6]  # a comma and a stop; the bytes between are Han
    assert part == pytest.approx((sum(one.sum() for one in each) - stops - ends - rest) / 23)


def test_the_rules_of_the_form() -> None:
    assert lines(QUATRAIN) == ["白日依山盡", "黃河入海流", "欲窮千里目", "更上一層樓"]
    assert is_even(QUATRAIN)
    for text in ("", "白日依山盡。", "白日依山，黃河入海。", "白日依山盡，黃河入海。"):
        assert not is_even(text)
    tones = dict(zip("盡流目樓", "仄平仄平", strict=True))
    wrong = QUATRAIN.replace("樓", "目")
    found = form([QUATRAIN, wrong, "白日。"], tones)
    assert found == Form(poems=3, even=2, closes=4, level=3, opens=2, oblique=2)
    assert found.shares == {"even": 2 / 3, "level": 3 / 4, "oblique": 1}
    assert form([], tones).shares == {"even": 0, "level": 0, "oblique": 0}


def test_poems_are_written_until_their_end() -> None:
    characters = Characters([QUATRAIN] * 2)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=len(characters), context=12, layers=1, heads=2, width=16))
    written = hanzi.write(model, characters, 5, 3)
    assert written[1:] == hanzi.write(model, characters, 4, 4), "each has its own seed"
    assert len({*written}) == 5
    assert all(
        len(characters.encode(each)) <= 4 * 12 * 3 for each in hanzi.write(model, characters, 3, 0)
    )


@needs_poems
def test_it_learns_from_a_part_of_the_tang_and_counts_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [
        json.loads((npm_folder("chinese-poetry") / "dist" / name / "poet.tang.0.json").read_text())
        for name in ("quantangshi", "strains/json")
    ]
    folder, run = write(tmp_path / "package", *first), tmp_path / "run"
    options = (
        f"--run {run} --folder {folder} --ticks 60 --batch-size 8 --model.width 32 --model.heads 4 "
        "--model.layers 1 --model.context 64 --optimizer.learning-rate 1e-2 --evaluate-every 60 "
        "--checkpoint-every 60 --precision fp32 --allocator system --device cpu"
    )
    assert main(["train", "--recipe", str(SCRIPT), *options.split()]) == 0
    ticks = open_run(run).ticks().rows()
    assert ticks[0]["loss"] > 7.5
    assert np.mean([row["loss"] for row in ticks[-5:]]) < 6.6
    last = ticks[-1]
    assert last["test_bits_per_han"] > last["test_bits_per_character"] > 5
    assert len(open_run(run).samples()) == 1
    recipe = sys.modules[load_recipe(str(SCRIPT)).task.__module__]
    monkeypatch.setattr(recipe, "WRITTEN", 3)
    found = recipe.beside(run, open_run(run).info.config)
    assert 5 < found["five_gram_per_character"] < found["five_gram_per_han"] < 13
    assert 0.5 < found["held_out_even"] <= 1
