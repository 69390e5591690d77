"""Playing: environments, mini-batches of what was played, advantages, scores."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from metronorm.errors import MissingDependencyError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from metronorm.models.actor_critic import ActorCritic

    Player = Callable[[NDArray[np.float32]], NDArray[np.int64]]  # what is seen → actions


PARTS = 10  # of a training: at the beginning of each it can go on after a stop


class Settings(NamedTuple):
    """How much is played, and how it is learned from.

    Attributes:
        steps: of the environment, all copies together.
        envs: copies that are played at once.
        length: steps of each copy between two trainings.
        batch: steps of a mini-batch: of a tick.
        epochs: passes over what was played.
        gamma: discount per step.
        gae_lambda: of the generalized advantage estimate: 0 trusts the critic, 1 what happened.
        learning_rate: of the first tick.
        entropy: weight of the entropy of the actions in the loss.
    """

    steps: int
    envs: int
    length: int
    batch: int
    epochs: int
    gamma: float
    gae_lambda: float
    learning_rate: float
    entropy: float

    def but(self, **given: float | None) -> Settings:
        """The same with other values; what is None stays as it is."""
        return self._replace(**{name: value for name, value in given.items() if value is not None})


def environments(name: str, count: int, *, film: bool = False) -> SyncVectorEnv:
    """Copies of an environment; each begins anew in the step in which it ends.

    Args:
        name: of gymnasium's environment.
        count: of copies.
        film: whether they can be filmed.

    Raises:
        MissingDependencyError: the environment needs a package that is not installed.
    """
    try:
        mode = "rgb_array" if film else None
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # a film needs no screen
        envs = SyncVectorEnv(
            [lambda: gym.make(name, render_mode=mode)] * count,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        if film:
            envs.reset()
            envs.render()  # what that needs is imported now
    except gym.error.DependencyNotInstalled as error:
        raise MissingDependencyError(
            f"{name} needs more of gymnasium",
            got=str(error).partition(",")[0],
            fix="pip install 'gymnasium[classic-control,box2d]'",
        ) from None
    return envs


def sizes(envs: SyncVectorEnv) -> tuple[int, int]:
    """How many numbers are seen, and of how many actions one is taken."""
    space: Any = envs.single_action_space
    shape = envs.single_observation_space.shape
    assert shape is not None
    return shape[0], int(space.n)


class Batch(NamedTuple):
    """Steps to learn from, each (batch, ...), and how far the training is, from 0 to 1."""

    seen: Tensor
    actions: Tensor
    log_probabilities: Tensor
    advantages: Tensor
    returns: Tensor
    progress: float


def ticks_of(settings: Settings, rounds: int | None = None) -> int:
    """The number of mini-batches that `played` gives in so many rounds; None: in all."""
    round_ = settings.length * settings.envs
    rounds = settings.steps // round_ if rounds is None else rounds
    return rounds * settings.epochs * -(-round_ // settings.batch)


class Progress:
    """How far a training is, and all that it needs to go on from there, bit for bit.

    An environment cannot always be saved. So all begin anew at ten places of the training, and
    what is drawn from there on depends on the place and the seed alone.

    Args:
        path: of the file.
        agent: the networks.
        optimizer: of their parameters.
        resume: go on from the file.

    Raises:
        RunError: there is no file to go on from, or it is damaged.

    Attributes:
        rounds: that were played and learned from.
        moments: of what was seen.
        returns: of the last hundred episodes that ended.
    """

    def __init__(
        self,
        path: Path,
        agent: ActorCritic,
        optimizer: torch.optim.Optimizer,
        *,
        resume: bool = False,
    ) -> None:
        self._path, self._parts = path, {"agent": agent, "optimizer": optimizer}
        self.rounds, self.moments = 0, Moments(len(agent.mean))
        self.returns: deque[float] = deque(maxlen=100)
        if resume:
            self._load()

    def save(self) -> None:
        """Write the file; one that is there is kept until this one is whole."""
        kept = {name: part.state_dict() for name, part in self._parts.items()}
        kept |= {"rounds": self.rounds, "returns": [*self.returns], "moments": self.moments.state}
        aside = self._path.with_suffix(".new")
        torch.save(kept, aside)
        aside.replace(self._path)

    def _load(self) -> None:
        try:
            kept = torch.load(self._path, weights_only=True)
        except Exception as error:  # a torn file ends in many kinds
            raise RunError(
                "what goes on needs the file that a training left", got=f"{self._path}: {error}"
            ) from None
        for name, part in self._parts.items():
            part.load_state_dict(kept[name])
        self.rounds, self.moments.state = kept["rounds"], kept["moments"]
        self.returns.extend(kept["returns"])


def played(
    agent: ActorCritic, envs: SyncVectorEnv, settings: Settings, seed: int, progress: Progress
) -> Iterator[Batch]:
    """Play with the agent as it is, and give what was played in mini-batches, in random order.

    Args:
        agent: its `mean` and `scale` follow what was seen.
        envs: the copies of the environment.
        settings: how much is played, and how the advantages are estimated.
        seed: of what is drawn.
        progress: where it begins; it is saved from time to time.
    """
    chance, moments = torch.Generator(), progress.moments
    rounds = settings.steps // (settings.length * settings.envs)
    while (round_ := progress.rounds) < rounds:
        if round_ % max(1, rounds // PARTS) == 0:
            progress.save()
            chance.manual_seed(seed * rounds + round_)
            seen, _ = envs.reset(seed=seed + round_)
            score = np.zeros(settings.envs)
        rewards, ends = np.zeros((2, settings.length, settings.envs), np.float32)
        kept: list[tuple[Tensor, ...]] = []
        for step in range(settings.length):
            moments.add(seen)
            before = torch.from_numpy(seen)
            with torch.no_grad():
                choice, value = agent(before)
            action = torch.multinomial(choice.probs, 1, generator=chance)[:, 0]
            kept.append((before, action, choice.log_prob(action), value))
            seen, reward, ended, cut, info = envs.step(action.numpy())
            rewards[step], ends[step] = reward, ended | cut
            score += reward
            late = cut & ~ended
            if late.any():  # the limit of time is no end: the critic says what would have come
                final = np.stack([info["final_obs"][at] for at in np.flatnonzero(late)])
                with torch.no_grad():
                    rewards[step, late] += (
                        settings.gamma * agent(torch.from_numpy(final))[1].numpy()
                    )
            progress.returns.extend(score[ended | cut].tolist())
            score[ended | cut] = 0
        with torch.no_grad():
            last = agent(torch.from_numpy(seen))[1]
        states, actions, probabilities, values = map(torch.stack, zip(*kept, strict=True))
        gains = advantages(
            torch.from_numpy(rewards),
            values,
            torch.from_numpy(ends),
            last,
            settings.gamma,
            settings.gae_lambda,
        )
        columns = (states, actions, probabilities, gains, gains + values)
        flat = [column.flatten(0, 1) for column in columns]
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(flat[0]), generator=chance).split(settings.batch):
                yield Batch(*(column[rows] for column in flat), round_ / rounds)
        agent.mean.copy_(moments.mean)
        agent.scale.copy_(moments.deviation)
        progress.rounds += 1


def advantages(
    rewards: Tensor, values: Tensor, ends: Tensor, last: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """The generalized advantage estimate (Schulman et al., 2016, arXiv:1506.02438).

    Args:
        rewards: of each step, (time, envs).
        values: the critic's, before each step, (time, envs).
        ends: 1 where the episode ended with the step, else 0, (time, envs).
        last: the critic's values after the last step, (envs,).
        gamma: the discount per step.
        gae_lambda: the weight of what happened, against the critic's values.

    Returns:
        (time, envs), in the dtype of the rewards.
    """
    found = torch.empty_like(rewards)
    advantage = torch.zeros_like(last)
    for step in reversed(range(len(rewards))):
        goes_on = 1 - ends[step]
        error = rewards[step] + gamma * goes_on * last - values[step]
        advantage = error + gamma * gae_lambda * goes_on * advantage
        found[step], last = advantage, values[step]
    return found


class Moments:
    """Mean and deviation of each column of all rows that were added, in float64.

    Args:
        columns: how many.
    """

    def __init__(self, columns: int) -> None:
        self._count, self._mean, self._squares = 0, np.zeros(columns), np.zeros(columns)

    def add(self, rows: NDArray[np.floating]) -> None:
        """Add rows, (rows, columns): Chan, Golub and LeVeque's update (1983)."""
        count, mean = len(rows), rows.mean(0, dtype=np.float64)
        step, whole = mean - self._mean, self._count + count
        self._squares += np.square(rows - mean).sum(0) + step**2 * (self._count * count / whole)
        self._mean += step * count / whole
        self._count = whole

    @property
    def state(self) -> tuple[int, list[float], list[float]]:
        """Count, mean and sum of squared deviations, as plain numbers."""
        return self._count, self._mean.tolist(), self._squares.tolist()

    @state.setter
    def state(self, kept: tuple[int, list[float], list[float]]) -> None:
        self._count, mean, squares = kept
        self._mean, self._squares = np.array(mean), np.array(squares)

    @property
    def mean(self) -> Tensor:
        """(columns,), float32."""
        return torch.from_numpy(self._mean).float()

    @property
    def deviation(self) -> Tensor:
        """(columns,), float32; a little more than 0 in a column that is constant."""
        return torch.from_numpy(np.sqrt(self._squares / max(self._count, 1) + 1e-8)).float()


def likeliest(agent: ActorCritic) -> Player:
    """A player that takes the agent's likeliest actions."""

    def play(seen: NDArray[np.float32]) -> NDArray[np.int64]:
        with torch.no_grad():
            return agent(torch.from_numpy(seen))[0].logits.argmax(1).numpy()

    return play


def scores(envs: SyncVectorEnv, play: Player, *, seed: int) -> NDArray[np.float64]:
    """The return of one episode of each environment, which are closed then.

    Args:
        envs: the environments.
        play: the actions, (envs,), for what is seen, (envs, ...).
        seed: of the first one; the others count on.
    """
    seen, _ = envs.reset(seed=seed)
    found, going = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while going.any():  # every environment of gymnasium's ends by its limit of time
        seen, rewards, ended, cut, _ = envs.step(play(seen))
        found[going] += rewards[going]
        going &= ~(ended | cut)
    envs.close()
    return found


def judged(name: str, who: str, play: Player, episodes: int) -> dict[str, float]:
    """Mean score in an environment, named after who plays, and its deviation over episodes."""
    found = scores(environments(name, episodes), play, seed=10_000)
    return {who: float(found.mean()), f"{who}_deviation": float(found.std())}


def filmed(
    env: SyncVectorEnv,
    play: Player,
    *,
    frames: int = 16,
    width: int = 160,
) -> NDArray[np.uint8]:
    """Frames of an episode, evenly spaced, side by side in four columns.

    Args:
        env: one environment that can be filmed; it is closed then.
        play: the actions, (1,), for what is seen, (1, ...).
        frames: how many, at most.
        width: of a frame, in pixels, about.

    Returns:
        Pixels, (height, width, 3).
    """
    seen, _ = env.reset(seed=0)
    taken, going = [], True
    while going:
        (picture,) = env.render() or ()
        step = max(picture.shape[1] // width, 1)
        taken.append(picture[::step, ::step])
        seen, _, ended, cut, _ = env.step(play(seen))
        going = not (ended | cut)[0]
    env.close()
    chosen = [taken[at] for at in np.linspace(0, len(taken) - 1, frames).round().astype(int)]
    rows = [np.concatenate(chosen[at : at + 4], axis=1) for at in range(0, frames, 4)]
    return np.concatenate(rows)
