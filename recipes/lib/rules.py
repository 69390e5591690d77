"""Players without learning, to compare with: a rule for each environment, on what is seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Rule = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def cart_pole(seen: NDArray[np.float32]) -> NDArray[np.int64]:
    """Push to where the pole falls; a little more to where the cart comes from."""
    place, speed, angle, turn = seen.T
    return (0.1 * place + 0.3 * speed + 4 * angle + turn > 0).astype(np.int64)


def acrobot(seen: NDArray[np.float32]) -> NDArray[np.int64]:
    """Swing: push the joint in the direction in which the first link turns."""
    return np.where(seen[:, 4] > 0, 0, 2)


def lunar_lander(seen: NDArray[np.float32]) -> NDArray[np.int64]:
    """Gymnasium's own heuristic: lean towards the pad, and brake where it falls too fast."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    env = SimpleNamespace(continuous=False)
    env.unwrapped = env
    return np.array([heuristic(env, row) for row in seen])


RULES: dict[str, Rule] = {
    "CartPole-v1": cart_pole,
    "Acrobot-v1": acrobot,
    "LunarLander-v3": lunar_lander,
}
