"""Draws ticks.svg: which buffers exist when, for SGD with momentum and for Ticks.

    python docs/plot_ticks.py

Ten equal parameters are really trained for three ticks of two beats; after every gradient that
arrives, and after step and zero_grad, all tensors that are there are counted. The first tick, in
which states come into being, is left out. A test holds the committed file against this script.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.optim import Ticks

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = Path(__file__).with_name("ticks.svg")
LAYERS, BEATS, TICKS = 10, 2, 3
LEFT, TOP, WIDTH, HEIGHT, DOWN = 60, 60, 620, 90, 140
UNIT = HEIGHT / 12  # of a byte per parameter
COLOURS = {"parameters": "#0072b2", "state": "#009e73", "gradient": "#d55e00"}
INK, GRID = "#333", "#ddd"


class Moment(NamedTuple):
    """Bytes per parameter: of parameters, of the optimizer's state, of gradients beside it."""

    parameters: float
    state: float
    gradient: float


def record(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> list[Moment]:
    """What is there at each moment of the last two ticks."""
    parameters = [torch.nn.Parameter(torch.ones(100)) for _ in range(LAYERS)]
    optimizer = make(parameters)
    moments: list[Moment] = []

    def look(_: object = None) -> None:
        state = {
            each.data_ptr(): each.nbytes
            for values in optimizer.state.values()
            for each in values.values()
            if isinstance(each, torch.Tensor) and each.ndim
        }
        gradients = {p.grad.data_ptr(): p.grad.nbytes for p in parameters if p.grad is not None}
        beside = sum(size for place, size in gradients.items() if place not in state)
        numbers = 100 * LAYERS
        moments.append(Moment(4, sum(state.values()) / numbers, beside / numbers))

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(look)
    for _ in range(TICKS):
        for _ in range(BEATS):
            torch.stack([p.square().sum() for p in parameters]).sum().backward()
        optimizer.step()
        look()
        optimizer.zero_grad()
        look()
    return moments[-2 * (LAYERS * BEATS + 2) - 1 :]


PANELS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "torch.optim.SGD(momentum=0.9)": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Ticks(momentum=0.9): the gradient is the state": lambda p: Ticks(p, 0.1),
    "Ticks(max_grad_norm=1): a window's gradient apart": lambda p: Ticks(p, 0.1, max_grad_norm=1.0),
}


def area(moments: list[Moment], top: int, name: str) -> str:
    """One layer of the stack."""
    order = list(COLOURS)
    below = order[: order.index(name)]
    step = WIDTH / (len(moments) - 1)

    def line(names: list[str]) -> list[str]:
        heights = [sum(getattr(moment, each) for each in names) for moment in moments]
        points = []
        for index, height in enumerate(heights):
            y = top + HEIGHT - height * UNIT
            if index:
                points.append(f"{LEFT + step * (index - 0.5):.1f},{y:.1f}")
            points.append(f"{LEFT + step * min(index + 0.5, len(heights) - 1):.1f},{y:.1f}")
        return points

    points = [f"{LEFT},{line([*below, name])[0].split(',')[1]}", *line([*below, name])]
    points += reversed([f"{LEFT},{line(below)[0].split(',')[1]}", *line(below)])
    return f'<polygon points="{" ".join(points)}" fill="{COLOURS[name]}" fill-opacity="0.75"/>'


def panel(title: str, moments: list[Moment], top: int) -> list[str]:
    """A stack over time, with its highest point said."""
    most = max(sum(moment) for moment in moments)
    parts = [
        f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{title}: '
        f"{most:.0f} bytes per parameter</text>"
    ]
    for tick in (0, 4, 8, 12):
        y = top + HEIGHT - tick * UNIT
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="{GRID}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    parts += [area(moments, top, name) for name in COLOURS]
    step = WIDTH / (len(moments) - 1)
    for tick in range(TICKS - 1):
        x = LEFT + step * ((tick + 1) * (LAYERS * BEATS + 2) - 1)
        parts.append(
            f'<path d="M{x:.1f} {top}v{HEIGHT + 6}" stroke="{INK}" stroke-dasharray="3 3"/>'
        )
        parts.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 20}" text-anchor="middle">tick</text>')
        for beat in range(BEATS):
            at = tick * (LAYERS * BEATS + 2) + (beat + 0.5) * LAYERS
            parts.append(
                f'<text x="{LEFT + step * at:.1f}" y="{top + HEIGHT + 20}" text-anchor="middle">'
                f"beat {beat + 1}</text>"
            )
    return parts


def svg() -> str:
    """The whole picture."""
    height = TOP + DOWN * len(PANELS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{LEFT + WIDTH + 20}" height="{height}" fill="white"/>',
    ]
    for index, (name, colour) in enumerate(COLOURS.items()):
        x = LEFT + 150 * index
        parts.append(
            f'<rect x="{x}" y="12" width="12" height="12" fill="{colour}" opacity="0.75"/>'
        )
        told = {"state": "optimizer's state"}.get(name, name)
        parts.append(f'<text x="{x + 18}" y="22">{told}</text>')
    for index, (title, make) in enumerate(PANELS.items()):
        parts += panel(title, record(make), TOP + DOWN * index)
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PATH.write_text(svg())
