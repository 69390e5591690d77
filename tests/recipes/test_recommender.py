"""The recipe of recommendation on the real data: what it trains on, and a model that learns."""

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metronorm.cli import main
from metronorm.data import movielens_100k
from metronorm.runs import open_run

from ..real_data import needs_movielens
from ..train.acting import at_every_tick

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import recommender
from lib import comparing, results
from lib.ranking import gains, hits, places
from lib.sequences import Windows, held_out

SCRIPT = recommender.__file__
pytestmark = needs_movielens
TICKS = 30


@pytest.fixture(scope="module")
def options() -> list[str]:
    chosen = {
        "ticks": TICKS,
        "width": 16,
        "blocks": 1,
        "length": 20,
        "optimizer.learning-rate": 0.01,
        "evaluate-every": 15,
        "checkpoint-every": 15,
        "precision": "fp32",
        "allocator": "system",
        "device": "cpu",
    }
    return [str(word) for name, value in chosen.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--recipe", SCRIPT, "--run", str(run), *options]) == 0
    return run


def history(run: Path) -> list[Any]:
    names = ("tick", "loss", "items", "validation_ndcg_10", "test_loss", "test_hr_10")
    return [[row.get(name) for name in names] for row in open_run(run).ticks().rows()]


def test_it_learns(trained: Path) -> None:
    rows = open_run(trained).ticks().rows()
    assert rows[0]["loss"] == pytest.approx(math.log(1682), abs=0.1), "it begins with a guess"
    assert np.mean([row["loss"] for row in rows[-5:]]) < 6.8
    assert rows[-1]["test_loss"] < 7.0
    assert rows[-1]["test_hr_10"] > 0.04  # by chance: 0.006


def test_the_board_has_lists_of_new_films(trained: Path) -> None:
    tables = [each for each in open_run(trained).samples() if each.name == "the first ten"]
    assert [each.tick for each in tables] == [15, 30]
    data = movielens_100k()
    for row, line in enumerate(tables[-1].read().splitlines()):
        table = json.loads(line)
        titles = [table[str(number)] for number in range(1, 11)]
        history = data.histories(without=2)[row]
        assert not {data.titles[item] for item in history} & set(titles)
        found = table["chose"] == data.titles[data.histories(without=1)[row][-1]]
        assert found
        assert (table["place"] <= 10) == (table["chose"] in titles)


def test_a_resumed_run_is_the_run(trained: Path, options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with at_every_tick(lambda tick: os.kill(os.getpid(), signal.SIGTERM) if tick == 17 else None):
        command = ["train", "--recipe", SCRIPT, "--run", str(run), *options]
        assert main(command) == 128 + signal.SIGTERM
    assert main(["train", "--resume", str(run)]) == 0
    assert history(run) == history(trained)


def test_the_command_compares_runs_user_by_user(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(comparing, "METHODS", {"popularity": comparing.METHODS["popularity"]})
    monkeypatch.setattr(comparing, "add", lambda *row: results.add(*row, folder=tmp_path))
    command = ["recommender.py", "compare", str(trained), str(trained), "--publish"]
    monkeypatch.setattr(sys, "argv", command)
    assert comparing.compare(recommender.net, recommender.scored) == 0
    (row,) = results.rows("recommender", folder=tmp_path)
    assert row["runs"] == 2
    runs = " ".join([f"runs/{trained.name}"] * 2)
    assert row["command"] == f"python recipes/recommender.py compare {runs}"
    last = open_run(trained).ticks().rows()[-1]
    assert row["sasrec_hr_10"] == pytest.approx(last["test_hr_10"], abs=1e-9)
    assert row["sasrec_ndcg_10"] == pytest.approx(last["test_ndcg_10"], abs=1e-6)
    assert row["sasrec_hr_10_deviation"] == 0
    assert row["over_popularity_hr_10"] == pytest.approx(
        row["sasrec_hr_10"] - row["popularity_hr_10"], abs=1e-12
    )
    assert row["over_popularity_hr_10_low"] < row["over_popularity_hr_10"]
    assert "popularity_ndcg_10" in capsys.readouterr().out

    monkeypatch.setattr(sys, "argv", ["recommender.py", "compare", str(tmp_path)])
    assert comparing.compare(recommender.net, recommender.scored) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_windows_have_every_item_that_may_be_learned_from() -> None:
    data = movielens_100k()
    windows = Windows(data, 50)
    chance = np.random.default_rng(0)
    spans = list(zip(data.starts[:-1], data.starts[1:], strict=True))
    assert set(windows.users.tolist()) == set(range(943))
    for window in range(0, len(windows.users), 97):
        user = int(windows.users[window])
        rows = windows.rows((windows.users[window:][:1], windows.ends[window:][:1]), chance)
        start, end = spans[user]
        when = dict(
            zip(data.items[start:end].tolist(), data.times[start:end].tolist(), strict=True)
        )
        to_learn = data.items[start : end - 2].tolist()
        chosen, targets = rows.chosen[0], rows.targets[0]
        count = int((targets >= 0).sum())
        assert count == min(50, len(to_learn) - 1)
        assert (targets[:count] >= 0).all()
        assert not chosen[count:].any()
        assert chosen[1:count].tolist() == targets[: count - 1].tolist()
        seen = [*chosen[:count].tolist(), int(targets[count - 1])]
        assert set(seen) <= set(to_learn)
        times = [when[item] for item in seen]
        assert times == sorted(times)


def test_items_of_one_second_come_in_another_order_each_time() -> None:
    windows = Windows(movielens_100k(), 50)
    batch = windows.users[:40], windows.ends[:40]
    one, other, same = (windows.rows(batch, np.random.default_rng(seed)) for seed in (0, 1, 0))
    assert not np.array_equal(one.chosen, other.chosen)
    assert np.array_equal(one.chosen, same.chosen)


def test_what_is_held_out_comes_after_its_history() -> None:
    data = movielens_100k()
    for without in (1, 2):
        held = held_out(data, 30, without=without)
        for user in range(0, 943, 50):
            whole = data.items[data.starts[user] : data.starts[user + 1]]
            history, item = whole[: len(whole) - without], whole[len(whole) - without]
            count = min(30, len(history))
            assert held.chosen[user, :count].tolist() == history[-30:].tolist()
            assert held.targets[user, count - 1] == item
            assert (held.targets[user] >= 0).sum() == 1
            assert sorted(np.flatnonzero(held.seen[user])) == sorted(history)


def test_popular_films_are_found_as_often_as_by_counting() -> None:
    """The measure of a method without its code: lists that are made and searched."""
    data = movielens_100k()
    found, setting = comparing.without("popularity", data)
    assert setting is None
    counts = np.bincount(np.concatenate(data.histories(without=1)), minlength=1682)
    order = np.argsort(-counts, kind="stable")
    hit, gain = 0, 0.0
    for history, whole in zip(data.histories(without=1), data.histories(), strict=True):
        seen = set(history.tolist())
        first = [item for item in order[: len(seen) + 10].tolist() if item not in seen][:10]
        if whole[-1] in first:
            hit += 1
            gain += 1 / math.log2(first.index(whole[-1]) + 2)
    assert hits(found).mean().item() == pytest.approx(hit / 943)
    assert gains(found).mean().item() == pytest.approx(gain / 943)
    assert places(torch.zeros(1, 3), torch.tensor([2]), torch.zeros(1, 3).bool()).item() == 2
