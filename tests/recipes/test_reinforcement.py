"""The recipe of reinforcement learning: its parts beside equations, and an agent that learns."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from hypothesis import given
from hypothesis import strategies as st

from metronorm.clock import Clock
from metronorm.errors import MetronormError, MissingDependencyError, RunError
from metronorm.models.actor_critic import ActorCritic
from metronorm.runs import open_run

gym = pytest.importorskip("gymnasium", reason="gymnasium is not installed")

ROOT = Path(__file__).parents[2]
DEFAULTS = {"env": "CartPole-v1", "norm": "layer", "width": 64, "seed": 0}
sys.path.insert(0, str(ROOT / "recipes"))

import reinforcement  # noqa: E402
from lib.playing import (  # noqa: E402
    Moments,
    Progress,
    Settings,
    advantages,
    environments,
    filmed,
    played,
    scores,
    sizes,
)
from lib.rules import RULES  # noqa: E402


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_advantages_are_those_of_the_definition(seed: int, gamma: float, weight: float) -> None:
    chance = np.random.default_rng(seed)
    time, envs = 9, 3
    rewards, values = chance.normal(size=(2, time, envs))
    last, ends = chance.normal(size=envs), (chance.random((time, envs)) < 0.2).astype(float)
    found = advantages(*map(torch.from_numpy, (rewards, values, ends, last)), gamma, weight)
    for env in range(envs):
        for step in range(time):  # the sum of all errors to come, until the episode ends
            wanted, factor = 0.0, 1.0
            for later in range(step, time):
                following = last[env] if later == time - 1 else values[later + 1, env]
                over = ends[later, env]
                error = rewards[later, env] + gamma * following * (1 - over) - values[later, env]
                wanted += factor * error
                if over:
                    break
                factor *= gamma * weight
            assert found[step, env].item() == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_moments_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(3.0, 0.01, size=(7, 5, 4)).astype(np.float32)
    moments = Moments(4)
    for each in rows:
        moments.add(each)
    whole = rows.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.deviation, np.sqrt(whole.var(0) + 1e-8), rtol=1e-6)


def test_an_episode_that_was_cut_off_goes_on_in_the_critic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gae_lambda 0, the return of a step is its reward and the value of what is next."""
    make, value = gym.make, 3.0
    agent = ActorCritic(4, 2)
    torch.nn.init.zeros_(agent.critic[-1].weight)
    torch.nn.init.constant_(agent.critic[-1].bias, value)
    settings = Settings(
        steps=64, envs=2, length=32, batch=64, epochs=1,
        gamma=0.5, gae_lambda=0.0, learning_rate=0.0, entropy=0.0,
    )  # fmt: skip
    progress = Progress(tmp_path / "agent.pt", agent, torch.optim.Adam(agent.parameters()))
    (batch,) = played(agent, environments("CartPole-v1", 2), settings, 0, progress)
    failed, ended = batch.returns == 1, len(progress.returns)
    assert 0 < int(failed.sum()) == ended
    assert torch.equal(batch.returns[~failed], torch.full((64 - ended,), 1 + 0.5 * value))

    monkeypatch.setattr(gym, "make", lambda name, **more: make(name, max_episode_steps=4, **more))
    progress = Progress(tmp_path / "agent.pt", agent, torch.optim.Adam(agent.parameters()))
    (batch,) = played(agent, environments("CartPole-v1", 2), settings, 0, progress)
    assert [*progress.returns] == [4.0] * 16
    assert torch.equal(batch.returns, torch.full((64,), 1 + 0.5 * value))


@pytest.mark.parametrize(
    ("name", "least"), [("CartPole-v1", 490), ("Acrobot-v1", -120), ("LunarLander-v3", 150)]
)
def test_the_rules_beat_chance(name: str, least: float) -> None:
    if name == "LunarLander-v3":
        pytest.importorskip("Box2D", reason="Box2D is not installed")
    chance, (_, actions) = np.random.default_rng(0), sizes(environments(name, 1))
    by_rule = scores(environments(name, 10), RULES[name], seed=1).mean()
    by_chance = scores(
        environments(name, 10), lambda seen: chance.integers(actions, size=len(seen)), seed=1
    ).mean()
    assert by_rule > least > by_chance


@pytest.mark.slow
def test_an_agent_learns_to_balance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    config = reinforcement.Config(steps=8000, run=tmp_path / "run")
    reinforcement.main(config)
    told = capsys.readouterr().out
    assert told.startswith("CartPole-v1: ")
    assert float(told.split()[1]) > 100  # by chance: 22
    ticks = open_run(config.run).ticks()
    ((count, played_steps),) = ticks.fetch("select count(*), sum(samples) from ticks")
    assert (count, played_steps) == (31 * 20, 31 * 256 * 20)
    assert {"data", "forward", "backward", "update"} <= {*ticks.phases}
    with pytest.raises(MetronormError):  # there is a run
        reinforcement.main(config)


@pytest.mark.slow
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "recipes" / "reinforcement.py")]
    options = ["--steps", "4096", "--seed", "3"]
    subprocess.run([*script, *options, "--run", tmp_path / "whole"], check=True)
    with subprocess.Popen(
        [*script, *options, "--run", tmp_path / "killed"], stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stderr is not None
        for said in training.stderr:
            if re.search(r" [12]\d\d/320 ", said):
                break
        training.kill()
    subprocess.run([*script, "--resume", tmp_path / "killed"], check=True)

    names = ("tick", "loss", "critic_loss", "entropy", "episode_return")
    runs = [open_run(tmp_path / name).ticks().rows() for name in ("whole", "killed")]
    rows = [[[row.get(name) for name in names] for row in run] for run in runs]
    assert rows[0] == rows[1]
    assert {row["attempt"] for row in runs[1]} == {0, 1}
    kept = [torch.load(tmp_path / name / "agent.pt") for name in ("whole", "killed")]
    for name, tensor in kept[0]["agent"].items():
        assert torch.equal(tensor, kept[1]["agent"][name]), name


def test_what_goes_on_needs_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Clock(tmp_path / "run", config=dict.fromkeys(reinforcement.OPTIONS) | DEFAULTS) as clock:
        for _ in clock.ticks(range(1)):
            pass
    with pytest.raises(RunError, match=r"agent\.pt"):
        reinforcement.main(reinforcement.Config(resume=tmp_path / "run"))
    (tmp_path / "run" / "agent.pt").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"agent\.pt"):
        reinforcement.main(reinforcement.Config(resume=tmp_path / "run"))


def test_an_unknown_environment_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        tyro.cli(reinforcement.Config, args=["--env", "Pong-v5"])
    assert stopped.value.code == 2
    assert "CartPole-v1" in capsys.readouterr().err


def test_an_environment_that_lacks_a_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(name: str, **more: object) -> None:
        raise gym.error.DependencyNotInstalled("Box2D is not installed, run `pip install`")

    monkeypatch.setattr(gym, "make", lacking)
    with pytest.raises(MissingDependencyError, match="gymnasium"):
        environments("LunarLander-v3", 1)


def test_an_episode_is_filmed() -> None:
    pytest.importorskip("pygame", reason="pygame, which draws, is not installed")
    film = environments("CartPole-v1", 1, film=True)
    pictures = filmed(film, RULES["CartPole-v1"], frames=8)
    assert (pictures.dtype, pictures.ndim, pictures.shape[2]) == (np.uint8, 3, 3)
    height, width = pictures.shape[0] // 2, pictures.shape[1] // 4
    assert width >= 150
    first = pictures[:height, :width]
    assert (first < 128).any()  # the cart is black
    assert (first != pictures[height:, -width:]).any()
