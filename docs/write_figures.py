"""Write `figures.md` from its template and the newest rows of the benchmarks.

    python docs/write_figures.py

A figure of the template is `{BENCHMARK: CASE; DIGITS; /DIVISOR}`; the last two may be left out. The
case is a regular expression; of several cases that match, the lowest and the highest are given.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path

PATH = Path(__file__).with_name("figures.md")
TEMPLATE = Path(__file__).with_name("figures.template.md")
RESULTS = Path(__file__).parents[1] / "bench" / "results"

FIGURE = re.compile(r"\{(\w+): ([^;{}]+)(?:; (\d))?(?:; /(\d+))?\}")


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


def page() -> str:
    """The page, as Markdown."""
    _, _, template = TEMPLATE.read_text(encoding="utf-8").partition("\n")
    return FIGURE.sub(figure, template)


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
