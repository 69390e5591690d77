"""Learn to balance, swing and land by PPO, with LayerNorm in both networks.

    pip install 'metronorm[train]' 'gymnasium[classic-control,box2d]'
    python recipes/reinforcement.py                                  CartPole-v1: 100,000 steps
    python recipes/reinforcement.py --env LunarLander-v3 --norm none --learning-rate 0.001
    python recipes/reinforcement.py --resume runs/reinforcement

PPO (Schulman et al., 2017, arXiv:1707.06347) has a loop of its own, and uses the instruments alone:
a tick is one update from a mini-batch, and the time to play what is learned from is its phase
`data`. What was reached is in docs/reinforcement.md. Read from top to bottom.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from lib import playing
from lib.playing import Batch, Settings
from lib.results import add, seconds
from lib.rules import RULES
from torch import Tensor, nn

from metronorm.clock import Clock, read_run_info
from metronorm.errors import MetronormError
from metronorm.models import ActorCritic

Environment = Literal["CartPole-v1", "Acrobot-v1", "LunarLander-v3"]
EPISODES = 100  # of a score
OPTIONS = ("env", "steps", "learning_rate", "norm", "width", "seed")
# Advantages are divided by their deviation, or by this. Once CartPole is solved, all that is left
# of them is the critic's noise: divided by its own deviation, it makes the agent forget.
LEAST_SPREAD = 0.1

# After the settings of SB3's zoo for PPO. `learning_rate` is of Adam; it falls to 0.
SETTINGS = {
    "CartPole-v1": Settings(
        steps=100_000, envs=8, length=32, batch=256, epochs=20,
        gamma=0.98, gae_lambda=0.8, learning_rate=1e-3, entropy=0.0,
    ),
    "Acrobot-v1": Settings(
        steps=500_000, envs=16, length=256, batch=256, epochs=4,
        gamma=0.99, gae_lambda=0.94, learning_rate=1e-3, entropy=0.0,
    ),
    "LunarLander-v3": Settings(
        steps=1_000_000, envs=16, length=1024, batch=64, epochs=4,
        gamma=0.999, gae_lambda=0.98, learning_rate=3e-4, entropy=0.01,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Options. None: what suits the environment."""

    env: Environment = "CartPole-v1"
    steps: int | None = None
    """Steps of the environment, all copies together."""
    learning_rate: float | None = None
    """Of Adam; it falls to 0."""
    norm: Literal["layer", "none"] = "layer"
    """After each hidden linear layer."""
    width: int = 64
    """Of the two hidden layers of actor and critic."""
    seed: int = 0
    run: Path = Path("runs/reinforcement")
    """Directory of the run."""
    resume: Path | None = None
    """Go on with this run, with its options, as if it had never stopped."""
    publish: bool = False
    """Add what was reached to recipes/results/reinforcement.json."""


def loss(agent: ActorCritic, batch: Batch, entropy: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped loss of the actor, that of the critic and the entropy; and what to record."""
    choice, values = agent(batch.seen)
    ratio = (choice.log_prob(batch.actions) - batch.log_probabilities).exp()
    clip = 0.2 * (1 - batch.progress)
    spread = batch.advantages.std().clamp_min(LEAST_SPREAD)
    gains = (batch.advantages - batch.advantages.mean()) / spread
    actor = -torch.min(gains * ratio, gains * ratio.clamp(1 - clip, 1 + clip)).mean()
    critic = (values - batch.returns).square().mean()
    undecided = choice.entropy().mean()
    total = actor + critic / 2 - entropy * undecided
    return total, {"loss": total, "critic_loss": critic, "entropy": undecided}


def learn(config: Config, settings: Settings) -> ActorCritic:
    """Train an agent, and record every tick and, at the end, pictures of an episode."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)  # the networks are small
    envs = playing.environments(config.env, settings.envs)
    film = playing.environments(config.env, 1, film=True)
    agent = ActorCritic(*playing.sizes(envs), width=config.width, norm=config.norm)
    optimizer = torch.optim.Adam(agent.parameters(), settings.learning_rate, eps=1e-5, fused=True)
    resume = bool(config.resume)
    progress = playing.Progress(config.run / "agent.pt", agent, optimizer, resume=resume)
    batches = playing.played(agent, envs, settings, config.seed, progress)
    done, ticks = (playing.ticks_of(settings, each) for each in (progress.rounds, None))
    options = {name: getattr(config, name) for name in OPTIONS}
    with Clock(config.run, config=options, resume=resume) as clock:
        for batch in clock.ticks(batches, total=ticks, initial=done):
            optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - batch.progress)
            with clock.phase("forward"):
                total, found = loss(agent, batch, settings.entropy)
            with clock.phase("backward"):
                total.backward()
            with clock.phase("update"):
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
            clock.log(samples=len(batch.seen), **found)
            if returns := progress.returns:
                clock.log(episode_return=sum(returns) / len(returns))
            if clock.tick == ticks:
                clock.sample("episode", playing.filmed(film, playing.likeliest(agent)))
    envs.close()
    return agent


def main(config: Config) -> None:
    """Train, and play a hundred episodes: the agent's likeliest actions, and a rule by hand."""
    if config.resume:
        info = read_run_info(config.resume)
        config = replace(config, run=config.resume, **{each: info.config[each] for each in OPTIONS})
    settings = SETTINGS[config.env].but(steps=config.steps, learning_rate=config.learning_rate)
    begun = time.perf_counter()
    agent = learn(config, settings)
    took = time.perf_counter() - begun
    row = {"env": config.env, "norm": config.norm, "seed": config.seed, "seconds": took}
    row |= {"steps": settings.steps, "learning_rate": settings.learning_rate}
    row |= playing.judged(config.env, "agent", playing.likeliest(agent), EPISODES)
    row |= playing.judged(config.env, "rule", RULES[config.env], EPISODES)
    if config.publish:
        add("reinforcement", config.run, row | seconds(config.run))
    agent_score = f"{row['agent']:.1f} ± {row['agent_deviation']:.1f} in {EPISODES} episodes"
    print(f"{config.env}: {agent_score}; a rule by hand: {row['rule']:.1f}; {took:.0f} s")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except MetronormError as error:
        sys.exit(f"reinforcement: {error}")
