"""Draws the three pictures of the tutorial.

    python docs/plot_tutorial.py          from the equations, and from tutorial-losses.csv
    python docs/plot_tutorial.py RUNS     first writes tutorial-losses.csv from the runs of part 4

The equations are computed in float64 without chance, so their pictures are the same bytes
everywhere. A test holds the committed files against this script.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from metronorm.norm import layer_norm
from metronorm.runs import open_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

FOLDER = Path(__file__).parent
LOSSES = FOLDER / "tutorial-losses.csv"
WIDTH, HEIGHT, LEFT, TOP, ACROSS = 380, 240, 74, 70, 478  # of a panel's frame
INK, GRID = "#333", "#ddd"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#a03b82"
MOMENTUM, EPS, LAYERS, GAIN = 0.9, 1e-5, 16, 3


class Line(NamedTuple):
    """Points, and how they are joined; those beyond a panel's scale are drawn on its border."""

    name: str
    colour: str
    dash: str
    points: list[tuple[float, float]]


class Panel(NamedTuple):
    """A chart. `y_marks` are its horizontal lines, from the lowest to the highest."""

    title: str
    x_title: str
    x_marks: list[int]
    y_marks: list[float]
    logarithmic: bool
    lines: list[Line]


# --- part 2: sums of gradients --------------------------------------------------------------------


def distances(curvature: float, lr: float) -> list[tuple[float, float]]:
    """How far p is from the minimum of a parabola, by tick."""
    p, c, found = 1.0, 0.0, [(0.0, 1.0)]
    for tick in range(1, 41):
        c = MOMENTUM * c + curvature * p
        p -= lr * c
        found.append((float(tick), abs(p)))
    return found


def shares(fading: int) -> list[tuple[float, float]]:
    """How much the gradients of 16 beats count at the last of four ticks.

    The sum fades whenever `fading` more beats are in it.
    """
    steps = []
    for beat in range(16):
        share = MOMENTUM ** ((15 - beat) // fading)
        steps += [(beat, share), (beat + 1, share)]
    return steps


def ticks_panels() -> list[Panel]:
    """What the learning rate does, and when the sum fades."""
    return [
        Panel(
            "distance from the minimum of a parabola",
            "tick",
            [0, 10, 20, 30, 40],
            [1e-3, 1e0, 1e3, 1e6, 1e9, 1e12, 1e15, 1e18],
            True,
            [
                Line("no learning rate, curvature 5", ORANGE, "", distances(5.0, 1.0)),
                Line("no learning rate, curvature 1", PURPLE, "2 3", distances(1.0, 1.0)),
                Line("Ticks(lr=0.1), curvature 5", BLUE, "7 3", distances(5.0, 0.1)),
            ],
        ),
        Panel(
            "what the gradient of a beat counts at tick 4",
            "beat; four are a tick",
            [0, 4, 8, 12, 16],
            [0.0, 0.25, 0.5, 0.75, 1.0],
            False,
            [
                Line("fades at every beat", ORANGE, "", shares(1)),
                Line("fades at every tick", BLUE, "7 3", shares(4)),
            ],
        ),
    ]


# --- part 3: a signal and its depth ---------------------------------------------------------------


def deviation(x: Tensor) -> Tensor:
    """The root of the biased variance of the last dimension."""
    return x.std(-1, keepdim=True, correction=0)


def rooted(x: Tensor) -> Tensor:
    """Divided by the root of the deviation, which is a root already."""
    return (x - x.mean(-1, keepdim=True)) / (deviation(x) + EPS).sqrt()


def depths(norm: Callable[[Tensor], Tensor], start: float) -> list[tuple[float, float]]:
    """The deviation of the signal behind each layer; every layer makes it GAIN times as large."""
    count = torch.arange(1, 64 * 65 + 1, dtype=torch.float64)
    spread = torch.sin(count * count).reshape(65, 64)  # like random numbers, the same everywhere
    turned = torch.linalg.qr(spread[:64])[0]
    x = spread[64:]
    x = (x - x.mean()) / deviation(x) * start
    found = [(0.0, start)]
    for layer in range(1, LAYERS + 1):
        x = norm(GAIN * (x @ turned))
        found.append((float(layer), float(deviation(x))))
    return found


def norms_panels() -> list[Panel]:
    """The same chain of layers with two formulas, and without a norm."""
    inputs = (0.01, 1.0, 100.0)
    dashes = ("", "7 3", "2 3")

    def panel(title: str, norm: Callable[[Tensor], Tensor]) -> Panel:
        none = Line("no norm", GREEN, "", depths(lambda x: x, 0.01))
        lines = [
            Line(f"input of deviation {start:g}", BLUE, dash, depths(norm, start))
            for start, dash in zip(inputs, dashes, strict=True)
        ]
        marks = [10.0**exponent for exponent in range(-2, 7)]
        return Panel(title, "layer", [0, 4, 8, 12, 16], marks, True, [*lines, none])

    return [
        panel("sqrt(std + eps): deviation of the signal", rooted),
        panel("sqrt(var + eps): deviation of the signal", lambda x: layer_norm(x, 64, eps=EPS)),
    ]


# --- part 4: losses -------------------------------------------------------------------------------


def write_losses(runs: Path) -> None:
    """Read what the picture shows from the runs of part 4; losses of training are means over 5."""
    rows = [("run", "tick", "measure", "value")]
    for name, together in (("article", 5), ("article-sums", 1), ("metronorm", 5)):
        ticks = open_run(runs / name).ticks()
        for measure in ("loss", "reading_loss", "writing_loss"):
            size = together if measure == "loss" else 1
            query = f"""select ceil(tick / {size}) * {size} as last, avg({measure}) from ticks
                        where isfinite({measure}) group by last order by last"""
            found = ticks.sql(query).fetchall()
            rows += [(name, f"{tick:.0f}", measure, f"{value:.4f}") for tick, value in found]
    with LOSSES.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def losses_panels() -> list[Panel]:
    """What was trained, and what is left of it when the model writes."""
    with LOSSES.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def line(name: str, run: str, measure: str, colour: str, dash: str = "") -> Line:
        found = [row for row in rows if (row["run"], row["measure"]) == (run, measure)]
        points = [(float(row["tick"]), float(row["value"])) for row in found]
        return Line(name, colour, dash, points)

    x_marks, y_marks = [0, 50, 100, 150, 200], [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    return [
        Panel(
            "loss of training",
            "tick",
            x_marks,
            y_marks,
            False,
            [
                line("snippets of articles", "article", "loss", ORANGE),
                line("right norm, no learning rate", "article-sums", "loss", PURPLE, "2 3"),
                line("metronorm", "metronorm", "loss", BLUE, "7 3"),
            ],
        ),
        Panel(
            "loss of new text",
            "tick",
            x_marks,
            y_marks,
            False,
            [
                line("snippets of articles: writing", "article", "writing_loss", ORANGE),
                line("snippets of articles: reading", "article", "reading_loss", ORANGE, "2 3"),
                line("metronorm: writing, and reading", "metronorm", "writing_loss", BLUE, "7 3"),
            ],
        ),
    ]


# --- drawing --------------------------------------------------------------------------------------


def text(x: float, y: float, words: str, more: str = "") -> str:
    """An SVG text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}"{more}>{words}</text>'


def drawn(panel: Panel, left: int) -> list[str]:
    """A panel as SVG elements; `left` is the left side of its frame."""
    x_low, x_high = panel.x_marks[0], panel.x_marks[-1]
    scale = math.log10 if panel.logarithmic else float
    y_low, y_high = scale(panel.y_marks[0]), scale(panel.y_marks[-1])

    def at_x(x: float) -> float:
        return left + WIDTH * (x - x_low) / (x_high - x_low)

    def at_y(y: float) -> float:
        return TOP + HEIGHT * (y_high - scale(y)) / (y_high - y_low)

    found = [text(left, TOP - 14, panel.title, ' font-weight="bold"')]
    for mark in panel.x_marks:
        found.append(f'<path d="M{at_x(mark):.1f} {TOP}v{HEIGHT}" stroke="{GRID}"/>')
        found.append(text(at_x(mark), TOP + HEIGHT + 18, str(mark), ' text-anchor="middle"'))
    for value in panel.y_marks:
        raised = f'10<tspan dy="-5" font-size="9">{scale(value):.0f}</tspan>'
        label = raised if panel.logarithmic else f"{value:g}"
        found.append(f'<path d="M{left} {at_y(value):.1f}h{WIDTH}" stroke="{GRID}"/>')
        found.append(text(left - 6, at_y(value) + 4, label, ' text-anchor="end"'))
    found.append(f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" stroke="{INK}"/>')
    below = TOP + HEIGHT + 38
    found.append(text(left + WIDTH / 2, below, panel.x_title, ' text-anchor="middle"'))
    for index, line in enumerate(panel.lines):
        low, high = panel.y_marks[0], panel.y_marks[-1]
        points = " ".join(
            f"{at_x(x):.1f},{at_y(min(max(y, low), high)):.1f}" for x, y in line.points
        )
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        style = f'stroke="{line.colour}" stroke-width="2.5"{dash}'
        found.append(f'<polyline points="{points}" {style}/>')
        y = below + 24 + 20 * index
        found.append(f'<path d="M{left} {y - 4}h44" {style}/>')
        found.append(text(left + 54, y, line.name))
    return found


def svg(title: str, panels: list[Panel]) -> str:
    """A picture on a white ground of its own: readable on light and dark pages."""
    lines = max(len(panel.lines) for panel in panels)
    across, down = LEFT + ACROSS + WIDTH + 30, TOP + HEIGHT + 60 + 20 * lines
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" fill="none" '
        f'font-family="sans-serif" font-size="13">',
        f"<title>{title}</title>",
        f'<rect width="{across}" height="{down}" rx="8" fill="#fff"/>',
        text(24, 28, title, ' font-size="15"'),
    ]
    for index, panel in enumerate(panels):
        found += drawn(panel, LEFT + ACROSS * index)
    return "\n".join([*found, "</svg>"]) + "\n"


def pictures() -> dict[Path, str]:
    """Every file, and what is in it."""
    return {
        FOLDER / "tutorial-ticks.svg": svg("A sum of gradients with momentum 0.9", ticks_panels()),
        FOLDER / "tutorial-norms.svg": svg(
            f"{LAYERS} layers, each makes its input {GAIN} times as large and then normalizes it",
            norms_panels(),
        ),
        FOLDER / "tutorial-losses.svg": svg(
            "Guessing the next character of Shakespeare", losses_panels()
        ),
    }


if __name__ == "__main__":
    if sys.argv[1:]:
        write_losses(Path(sys.argv[1]))
    for path, picture in pictures().items():
        path.write_text(picture)
