"""Files as those of npm's `chinese-poetry`."""

import json
from pathlib import Path
from typing import Any


def write(folder: Path, poems: list[dict[str, Any]], strains: list[dict[str, Any]]) -> Path:
    """All files of the Tang, of which only the first has poems."""
    for name, entries in (("quantangshi", poems), ("strains/json", strains)):
        inside = folder / "dist" / name
        inside.mkdir(parents=True)
        for number in range(58):
            path = inside / f"poet.tang.{1000 * number}.json"
            path.write_text(json.dumps([] if number else entries), encoding="utf-8")
    return folder


def poem(number: int, *paragraphs: str) -> dict[str, Any]:
    """A poem."""
    return {"id": f"{number}", "title": "t", "author": "a", "paragraphs": [*paragraphs]}
