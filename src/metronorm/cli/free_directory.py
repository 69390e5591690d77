"""Where a run goes that was not told where."""

from __future__ import annotations

import glob
import os
import re
from itertools import takewhile
from pathlib import Path


def free_directory(sources: tuple[str, ...], parent: Path = Path("runs")) -> Path:
    """`runs/NAME`, with the first number that is not taken.

    NAME is that of `named_after`.
    """
    directory = parent / named_after(sources)
    first, number = directory.name, 1
    while directory.exists():
        number += 1
        directory = parent / f"{first}-{number}"
    return directory


def named_after(sources: tuple[str, ...]) -> str:
    """Name of the only file or folder, or of the folder that all lie in; or `shakespeare`."""
    if not sources:
        return "shakespeare"
    if len(sources) == 1 and not glob.has_magic(sources[0]):
        name = Path(sources[0]).resolve().stem
    else:
        folders = [_folder(source).resolve() for source in sources]
        name = Path(os.path.commonpath(folders)).name
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "text"


def _folder(source: str) -> Path:
    """The folder of a file, or the part of a glob before its first wildcard."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), Path(source).parts[:-1]))
