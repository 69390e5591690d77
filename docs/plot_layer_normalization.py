"""Draws layer-normalization.svg: what other formulas for layer normalization give.

    python docs/plot_layer_normalization.py

Every point is computed, in float64 and from inputs without chance, so that the file is the same
bytes everywhere. A test holds the committed file against this script.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.norm import layer_norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

EPS = 1e-5
PATH = Path(__file__).with_name("layer-normalization.svg")
WIDTH, HEIGHT = 380, 240  # of a panel's frame
LEFT, TOP, ACROSS, DOWN = 74, 96, 478, 336
INK, GRID = "#333", "#ddd"


class Line(NamedTuple):
    """A name for the legend, how it is drawn, and the points."""

    name: str
    colour: str
    dash: str
    points: list[tuple[float, float]]


class Panel(NamedTuple):
    """A log-log chart; ranges are exponents of ten."""

    title: str
    x_title: str
    y_title: str
    x_range: tuple[int, int]
    y_range: tuple[int, int]
    lines: list[Line]


def mean(x: Tensor) -> Tensor:
    """Of the last dimension."""
    return x.mean(-1, keepdim=True)


def std(x: Tensor) -> Tensor:
    """The root of the biased variance of the last dimension."""
    return x.var(-1, keepdim=True, correction=0).sqrt()


RIGHT = ("sqrt(var + eps): right", "#0072b2", "")
SQRT_STD = ("sqrt(std + eps)", "#d55e00", "7 3")
STD = ("std + eps", "#009e73", "2 3")
BARE = ("std, no eps", "#a03b82", "9 3 2 3")
FORMULAS: dict[tuple[str, str, str], Callable[[Tensor], Tensor]] = {
    RIGHT: lambda x: layer_norm(x, x.shape[-1], eps=EPS),
    SQRT_STD: lambda x: (x - mean(x)) / (std(x) + EPS).sqrt(),
    STD: lambda x: (x - mean(x)) / (std(x) + EPS),
    BARE: lambda x: (x - mean(x)) / std(x),
}


def numbers(*shape: int) -> Tensor:
    """Spread like random ones, but the same everywhere."""
    count = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(count * count).reshape(shape)


def row(n: int) -> Tensor:
    """(1, n) of mean 0 and deviation 1."""
    x = numbers(1, n)
    return (x - mean(x)) / std(x)


def spaced(low: int, high: int) -> list[float]:
    """Eight numbers per decade."""
    return [10 ** (step / 8) for step in range(8 * low, 8 * high + 1)]


def output_deviation(formula: Callable[[Tensor], Tensor], deviation: float) -> float:
    """Of what comes out when a row of this deviation goes in."""
    return float(std(formula(row(768) * deviation)))


def largest_gradient(formula: Callable[[Tensor], Tensor], deviation: float) -> float:
    """Of a row of this deviation, when slopes between -1 and 1 come from above."""
    x = (row(8) * deviation).requires_grad_()
    dy = torch.arange(8, dtype=torch.float64).cos().unsqueeze(0)
    (dx,) = torch.autograd.grad(formula(x), x, dy)
    return float(dx.abs().max())


def missing_deviation(n: int) -> float:
    """How far the deviation of the output is from 1 where the variance is divided by n - 1."""
    x = row(n)
    return 1 - float(std((x - mean(x)) / x.std(-1, keepdim=True)))


def leak(time: int) -> float:
    """How far the first token's output moves when the last token is another one."""
    x = numbers(time, 64)
    other = x.clone()
    other[-1] = x[-1].flip(0)
    first, moved = (
        ((each - each.mean(0)) / (each.var(0, correction=0) + EPS).sqrt())[0] for each in (x, other)
    )
    return float((moved - first).square().mean().sqrt())


def panels() -> list[Panel]:
    """The four charts."""
    deviations, small = spaced(-4, 4), spaced(-8, 0)
    widths, times = (2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1000), [2**k for k in range(2, 10)]
    return [
        Panel(
            "a, d: what comes out",
            "deviation of the input",
            "deviation of the output",
            (-4, 4),
            (-3, 3),
            [
                Line(*style, [(x, output_deviation(FORMULAS[style], x)) for x in deviations])
                for style in (RIGHT, SQRT_STD, STD)
            ],
        ),
        Panel(
            "d: what goes back",
            "deviation of the row",
            "largest |dx|, slopes up to 1",
            (-8, 0),
            (-1, 9),
            [
                Line(*style, [(x, largest_gradient(formula, x)) for x in small])
                for style, formula in FORMULAS.items()
            ],
        ),
        Panel(
            "b: variance divided by n - 1 (right: 0)",
            "n, elements of a row",
            "1 - deviation of the output",
            (0, 3),
            (-4, 0),
            [Line("", INK, "", [(n, missing_deviation(n)) for n in widths])],
        ),
        Panel(
            "c: normalized over time (right: 0)",
            "tokens of the sequence",
            "move of token 1 by the last one",
            (0, 3),
            (-4, 0),
            [Line("", INK, "", [(time, leak(time)) for time in times])],
        ),
    ]


def text(x: float, y: float, words: str, more: str = "") -> str:
    """An SVG text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}"{more}>{words}</text>'


def drawn(panel: Panel, left: int, top: int) -> list[str]:
    """A panel as SVG elements; `left` and `top` are the corner of its frame."""
    (x_low, x_high), (y_low, y_high) = panel.x_range, panel.y_range

    def at_x(exponent: float) -> float:
        return left + WIDTH * (exponent - x_low) / (x_high - x_low)

    def at_y(exponent: float) -> float:
        return top + HEIGHT * (y_high - exponent) / (y_high - y_low)

    found = [text(left, top - 12, panel.title, ' font-weight="bold"')]
    for low, high, vertical in ((x_low, x_high, True), (y_low, y_high, False)):
        for exponent in range(low, high + 1, 2 if high - low > 6 else 1):
            label = f'10<tspan dy="-5" font-size="9">{exponent}</tspan>'
            if vertical:
                x = at_x(exponent)
                found.append(f'<path d="M{x:.1f} {top}v{HEIGHT}" stroke="{GRID}"/>')
                found.append(text(x, top + HEIGHT + 18, label, ' text-anchor="middle"'))
            else:
                y = at_y(exponent)
                found.append(f'<path d="M{left} {y:.1f}h{WIDTH}" stroke="{GRID}"/>')
                found.append(text(left - 6, y + 4, label, ' text-anchor="end"'))
    found.append(f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" stroke="{INK}"/>')
    middle = left + WIDTH / 2, top + HEIGHT / 2
    found.append(text(middle[0], top + HEIGHT + 38, panel.x_title, ' text-anchor="middle"'))
    turned = f' text-anchor="middle" transform="rotate(-90 {left - 48} {middle[1]:.1f})"'
    found.append(text(left - 48, middle[1], panel.y_title, turned))
    for line in panel.lines:
        points = " ".join(
            f"{at_x(math.log10(x)):.1f},{at_y(math.log10(y)):.1f}" for x, y in line.points
        )
        style = f'stroke="{line.colour}" stroke-width="2.5"'
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        found.append(f'<polyline points="{points}" {style}{dash}/>')
    return found


def svg() -> str:
    """The whole picture, on a white ground of its own: readable on light and dark pages."""
    across, down = LEFT + ACROSS + WIDTH + 30, TOP + DOWN + HEIGHT + 54
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" fill="none" '
        f'font-family="sans-serif" font-size="13">',
        "<title>What other formulas for layer normalization give</title>",
        f'<rect width="{across}" height="{down}" rx="8" fill="#fff"/>',
        text(24, 30, "What a row is divided by, eps = 1e-5", ' font-weight="bold"'),
    ]
    for index, (name, colour, dash) in enumerate(FORMULAS):
        x = 24 + 230 * index
        more = f' stroke-dasharray="{dash}"' if dash else ""
        found.append(f'<path d="M{x} 50h44" stroke="{colour}" stroke-width="2.5"{more}/>')
        found.append(text(x + 52, 54, name))
    for index, panel in enumerate(panels()):
        left, top = LEFT + ACROSS * (index % 2), TOP + DOWN * (index // 2)
        found += drawn(panel, left, top)
    return "\n".join([*found, "</svg>"]) + "\n"


if __name__ == "__main__":
    PATH.write_text(svg())
