"""The figures of recipes: `recipes/results/NAME.json`, a list of rows, which is committed.

A row says what was measured, with which command, of which commit, on what, and with which versions:
the last four are those of the run.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from metronorm.clock import read_run_info

FOLDER = Path(__file__).parents[1] / "results"


def add(name: str, run: Path, figures: dict[str, Any], *, folder: Path = FOLDER) -> None:
    """Add a row.

    Args:
        name: of the recipe.
        run: the directory of its run.
        figures: what was measured.
        folder: of the results.
    """
    info = read_run_info(run)
    git = info.git or {}
    # where the run lies says nothing about what was measured
    options = re.sub(r"--run[= ]\S+|--publish", "", " ".join(sys.argv[1:])).split()
    row = figures | {
        "minutes": round((time.time_ns() - info.created_ns) / 60e9, 2),
        "command": " ".join(["python", f"recipes/{Path(sys.argv[0]).name}", *options]),
        "commit": str(git.get("commit"))[:12] + ("+" if git.get("dirty") else ""),
        "machine": f"{info.host['cores']} cores, {info.host['processor']}",
        "versions": info.versions,
        "date": time.strftime("%Y-%m-%d", time.gmtime(info.created_ns / 1e9)),
    }
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(each) for each in [*rows(name, folder=folder), row]]
    aside = path.with_suffix(".new")
    aside.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    aside.replace(path)


def rows(name: str, *, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The rows of a recipe, the oldest first."""
    path = folder / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    return found
