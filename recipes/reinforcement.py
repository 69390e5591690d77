"""Learn to balance, swing and land by PPO, with LayerNorm in both networks.

    pip install 'metronorm[train]' 'gymnasium[classic-control,box2d]'
    python recipes/reinforcement.py                                  CartPole-v1: 100,000 steps
    python recipes/reinforcement.py --env LunarLander-v3 --norm none --learning-rate 0.001

PPO (Schulman et al., 2017, arXiv:1707.06347) has a loop of its own, and uses the instruments alone:
a tick is one update from a mini-batch, and the time to play what is learned from is its phase
`data`. An episode that was cut off by its limit of time is no end: what would have followed is
estimated. What was reached is in recipes/results/reinforcement.json. Read from top to bottom.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import tyro
from lib.playing import environments, played, scores, sizes, ticks_of
from lib.results import add
from lib.rules import RULES
from torch import Tensor, nn

from metronorm.clock import Clock, check_free
from metronorm.errors import MetronormError
from metronorm.models import ActorCritic

if TYPE_CHECKING:
    import numpy as np
    from lib.playing import Batch
    from numpy.typing import NDArray

Environment = Literal["CartPole-v1", "Acrobot-v1", "LunarLander-v3"]
EPISODES = 100  # of a score


@dataclass(frozen=True)
class Config:
    """Options. None: what suits the environment (the settings of SB3's zoo for PPO)."""

    env: Environment = "CartPole-v1"
    steps: int | None = None
    """Steps of the environment, all copies together."""
    envs: int | None = None
    """Copies that are played at once."""
    length: int | None = None
    """Steps of each copy between two trainings."""
    batch: int | None = None
    """Steps of a mini-batch: of a tick."""
    epochs: int | None = None
    """Passes over what was played."""
    gamma: float | None = None
    """Discount per step."""
    gae_lambda: float | None = None
    """Of the generalized advantage estimate: 0 trusts the critic, 1 what happened."""
    learning_rate: float | None = None
    """Of Adam; it falls to 0, and so does `clip`."""
    clip: float = 0.2
    """How far an update may change the probability of an action."""
    entropy: float | None = None
    """Weight of the entropy of the actions in the loss."""
    norm: Literal["layer", "none"] = "layer"
    """After each hidden linear layer."""
    width: int = 64
    """Of the two hidden layers of actor and critic."""
    seed: int = 0
    run: Path = Path("runs/reinforcement")
    """Directory of the run."""
    publish: bool = False
    """Add what was reached to recipes/results/reinforcement.json."""


DEFAULTS: dict[Environment, dict[str, Any]] = {
    "CartPole-v1": {
        "steps": 100_000, "envs": 8, "length": 32, "batch": 256, "epochs": 20,
        "gamma": 0.98, "gae_lambda": 0.8, "learning_rate": 1e-3, "entropy": 0.0,
    },
    "Acrobot-v1": {
        "steps": 500_000, "envs": 16, "length": 256, "batch": 256, "epochs": 4,
        "gamma": 0.99, "gae_lambda": 0.94, "learning_rate": 1e-3, "entropy": 0.0,
    },
    "LunarLander-v3": {
        "steps": 1_000_000, "envs": 16, "length": 1024, "batch": 64, "epochs": 4,
        "gamma": 0.999, "gae_lambda": 0.98, "learning_rate": 3e-4, "entropy": 0.01,
    },
}  # fmt: skip


def loss(agent: ActorCritic, batch: Batch, config: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped loss of the actor, that of the critic and the entropy; and what to record."""
    choice, values = agent(batch.seen)
    ratio = (choice.log_prob(batch.actions) - batch.log_probabilities).exp()
    clip = config.clip * (1 - batch.progress)
    gains = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
    actor = -torch.min(gains * ratio, gains * ratio.clamp(1 - clip, 1 + clip)).mean()
    critic = (values - batch.returns).square().mean()
    entropy = choice.entropy().mean()
    total = actor + critic / 2 - config.entropy * entropy
    return total, {"loss": total, "critic_loss": critic, "entropy": entropy}


def learn(config: Any) -> ActorCritic:
    """Train an agent, and record every tick."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)  # the networks are small
    envs = environments(config.env, config.envs)
    inputs, actions = sizes(envs)
    agent = ActorCritic(inputs, actions, width=config.width, norm=config.norm)
    optimizer = torch.optim.Adam(agent.parameters(), config.learning_rate, eps=1e-5, fused=True)
    returns: deque[float] = deque(maxlen=100)
    settings = asdict(config) | {"run": str(config.run)}
    with Clock(config.run, config=settings) as clock:
        for batch in clock.ticks(played(agent, envs, config, returns), total=ticks_of(config)):
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - batch.progress)
            with clock.phase("forward"):
                total, found = loss(agent, batch, config)
            with clock.phase("backward"):
                total.backward()
            with clock.phase("update"):
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
            clock.log(samples=len(batch.seen), **found)
            if returns:
                clock.log(episode_return=sum(returns) / len(returns))
    envs.close()
    return agent


def main(config: Config) -> None:
    """Train, and play a hundred episodes: the agent's likeliest actions, and a rule by hand."""
    chosen = replace(config, **{
        name: value for name, value in DEFAULTS[config.env].items() if getattr(config, name) is None
    })  # fmt: skip
    check_free(config.run)
    begun = time.perf_counter()
    agent = learn(chosen)
    seconds = time.perf_counter() - begun

    def likeliest(seen: NDArray[np.float32]) -> NDArray[np.int64]:
        with torch.no_grad():
            return agent(torch.from_numpy(seen))[0].logits.argmax(1).numpy()

    row = {"env": config.env, "norm": config.norm, "learning_rate": chosen.learning_rate}
    row |= {"seed": config.seed, "steps": chosen.steps, "seconds": seconds}
    for name, play in (("agent", likeliest), ("rule", RULES[config.env])):
        found = scores(environments(config.env, EPISODES), play, seed=10_000)
        row |= {name: float(found.mean()), f"{name}_deviation": float(found.std())}
    if config.publish:
        add("reinforcement", config.run, row)
    print(
        f"{config.env}: {row['agent']:.1f} ± {row['agent_deviation']:.1f} in {EPISODES} episodes; ",
        end="",
    )
    print(f"a rule by hand: {row['rule']:.1f}; {seconds:.0f} s")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except MetronormError as error:
        sys.exit(f"reinforcement: {error}")
