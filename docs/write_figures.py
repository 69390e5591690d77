"""Write every page that has a template, `NAME.template.md`, from the newest rows.

    python docs/write_figures.py                        or: make figures

A template has two kinds of figures:

`{BENCHMARK: CASE; DIGITS; /DIVISOR}` of `bench/results`; the last two may be left out. The case is
a regular expression; of several cases that match, the lowest and the highest are given.

`{recipes/NAME: FIELD=VALUE, ...; FIELD; DECIMALS}` of `recipes/results`: of all rows that have
these values, the mean and, where there are several, the standard deviation. `FIELD%` is in percent,
`FIELD/OTHER` a ratio.
Text, such as `command`, is that of the newest row. `rows` is how many there are. Of rows of one
command, the newest counts.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
from functools import cache
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "bench" / "results"
RECIPES = DOCS.parent / "recipes" / "results"

FIGURE = re.compile(r"\{(\w+): ([^;{}]+)(?:; (\d))?(?:; /(\d+))?\}")
RECIPE_FIGURE = re.compile(r"\{recipes/(\w+): ([^;{}]*); (\w+)(?:/(\w+))?(%?)(?:; (\d))?\}")


@cache
def medians(benchmark: str) -> dict[str, float]:
    """The newest median of every case of a benchmark."""
    with open(RESULTS / f"{benchmark}.csv", encoding="utf-8", newline="") as file:
        return {row["case"]: float(row["p50"]) for row in csv.DictReader(file)}


def figure(found: re.Match[str]) -> str:
    """What stands in the page for a figure of the template.

    Raises:
        LookupError: no case of the benchmark matches.
    """
    benchmark, case, digits, divisor = found.groups()
    values = [
        median / int(divisor or 1)
        for name, median in medians(benchmark).items()
        if name == case or re.fullmatch(case, name)
    ]
    if not values:
        raise LookupError(f"{benchmark} has no case {case!r}")
    ends = dict.fromkeys(in_digits(value, int(digits or 3)) for value in (min(values), max(values)))
    return " to ".join(ends)


def in_digits(value: float, digits: int) -> str:
    """As many digits as mean something: 12,900; 5.53; 0.90."""
    if value == 0 or abs(value) >= 10 ** (digits - 1):
        return f"{float(f'{value:.{digits}g}'):,.0f}"
    return f"{value:#.{digits}g}"


def recipe_figure(found: re.Match[str]) -> str:
    """What stands in the page for a figure of a recipe.

    Raises:
        LookupError: no row has these values and this field.
    """
    recipe, where, field, other, percent, decimals = found.groups()
    wanted = dict(each.strip().split("=") for each in where.split(",") if each.strip())
    rows = [
        row
        for row in recipe_rows(recipe)
        if {field, other} <= {*row, "rows", None}
        and all(str(row.get(name)) == value for name, value in wanted.items())
    ]
    if not rows:
        raise LookupError(f"{recipe} has no row with {where!r} and {field!r}")
    if field == "rows":
        return str(len(rows))
    if isinstance(rows[-1][field], str):
        return str(rows[-1][field])
    scale = 100 if percent else 1
    values = [scale * row[field] / (row[other] if other else 1) for row in rows]
    shown = [statistics.mean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]
    sign = "\N{NARROW NO-BREAK SPACE}%" if percent else ""
    return " ± ".join(f"{value:,.{int(decimals or 1)}f}" for value in shown) + sign


@cache
def recipe_rows(recipe: str) -> list[dict[str, Any]]:
    """The newest row of every command of a recipe."""
    rows = json.loads((RECIPES / f"{recipe}.json").read_text(encoding="utf-8"))
    return list({row["command"]: row for row in rows}.values())


def templates() -> list[Path]:
    """The templates of all pages that have one."""
    return sorted(DOCS.glob("*.template.md"))


def page(template: Path) -> str:
    """A page, as Markdown."""
    _, _, text = template.read_text(encoding="utf-8").partition("\n")
    return FIGURE.sub(figure, RECIPE_FIGURE.sub(recipe_figure, text))


def path_of(template: Path) -> Path:
    """Where the page of a template lies."""
    return template.with_name(template.name.replace(".template", ""))


if __name__ == "__main__":
    for each in templates():
        path_of(each).write_text(page(each), encoding="utf-8")
