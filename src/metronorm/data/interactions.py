"""Read who chose what, and when: MovieLens-100k, or other files in RecBole's atomic format.

MovieLens-100k (Harper and Konstan, 2015, doi:10.1145/2827872) has 100,000 ratings of 1,682 films by
943 people, each of whom rated 20 at least, from September 1997 to April 1998. A Python package has
it; it is read and never imported, and nothing is downloaded here.

**The order is that of time, then that of the lines.** The ratings of many people came in pages, so
that several have the same second: what is last of them is up to the file. `tied` counts them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metronorm.data.packages import installed
from metronorm.errors import DataError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

PACKAGE, NAME = "recbole", "ml-100k"
SIZES = (100_000, 943, 1_682)  # interactions, users and items of MovieLens-100k
LEAST = 3  # interactions of a user: one each to train, to validate and to test


@dataclass(frozen=True)
class Interactions:
    """The items of each user in the order of time; users and items have numbers from 0 on.

    Attributes:
        items: int64 (interactions,), user after user.
        times: int64 (interactions,), seconds since 1970.
        ratings: float32 (interactions,).
        starts: int64 (users + 1,), where the items of each user begin; the last one is their end.
        titles: of the items.
        users: what the file calls them.
        tied: interactions at a second at which their user has another one.
    """

    items: NDArray[np.int64]
    times: NDArray[np.int64]
    ratings: NDArray[np.float32]
    starts: NDArray[np.int64]
    titles: tuple[str, ...]
    users: tuple[str, ...]
    tied: int

    @cached_property
    def data_id(self) -> str:
        """SHA-256 of who chose what, and when."""
        digest = hashlib.sha256()
        for array in (self.starts, self.items, self.times):
            digest.update(np.ascontiguousarray(array, "<i8").data)
        return digest.hexdigest()

    def histories(self, *, without: int = 0) -> list[NDArray[np.int64]]:
        """The items of each user in order, without the last ones.

        To leave one out: 2 to train, 1 as the history that a test is about, 0 with the test's item.
        """
        ends = self.starts[1:] - without
        pairs = zip(self.starts[:-1].tolist(), ends.tolist(), strict=True)
        return [self.items[start:end] for start, end in pairs]


def movielens_100k(folder: str | os.PathLike[str] | None = None) -> Interactions:
    """Read MovieLens-100k.

    Args:
        folder: with `ml-100k.inter`, `ml-100k.item` and `ml-100k.user`; None: that of the package.

    Raises:
        MissingDependencyError: no folder is given, and the package is not installed.
        DataError: a file is missing or damaged, or is not the one of MovieLens-100k.
    """
    if folder is None:
        found = [path.parent for path in installed(PACKAGE, f"{NAME}/{NAME}.inter")]
        if not found:
            raise DataError(
                f"the package {PACKAGE} must hold {NAME}.inter",
                got="another version",
                fix=f"pip install --no-deps {PACKAGE}==1.2.1",
            )
        folder = found[0]
    read = read_interactions(folder, NAME)
    sizes = len(read.items), len(read.users), len(read.titles)
    fewest = int(np.diff(read.starts).min())
    if sizes != SIZES or fewest < 20 or not np.isin(read.ratings, (1, 2, 3, 4, 5)).all():
        raise DataError(
            "MovieLens-100k has 100,000 ratings from 1 to 5, of 1,682 items by 943 users, each of "
            "whom has 20 at least",
            got=f"{sizes[0]:,} from {read.ratings.min():g} to {read.ratings.max():g}, {sizes[2]:,} "
            f"items, {sizes[1]:,} users, the fewest {fewest}, in {folder}",
            fix="read_interactions, for other data",
        )
    return read


def read_interactions(folder: str | os.PathLike[str], name: str) -> Interactions:
    """Read `NAME.inter`, `NAME.item` and `NAME.user`: tables with tabs, and a line of `name:type`.

    Raises:
        DataError: a file or a column is missing, a line has other columns, a rating is of an
            unknown user or item, something is no number, a user has chosen an item twice, or has
            fewer than three.
    """
    paths = [Path(folder) / f"{name}.{end}" for end in ("inter", "item", "user")]
    users = _column(_table(paths[2]), "user_id", paths[2])
    of_items = _table(paths[1])
    items, titles = (_column(of_items, each, paths[1]) for each in ("item_id", "movie_title"))
    table = _table(paths[0])
    user = _numbers(_column(table, "user_id", paths[0]), users, "user", paths[0])
    item = _numbers(_column(table, "item_id", paths[0]), items, "item", paths[0])
    rating, time = (
        _floats(_column(table, each, paths[0]), each, paths[0]) for each in ("rating", "timestamp")
    )
    _check_pairs(user, item, len(users), len(items), paths[0])
    order = np.lexsort((time, user))  # a stable sort: of equal times, the first line comes first
    user, seconds = user[order], time[order].astype(np.int64)
    same = (np.diff(user) == 0) & (np.diff(seconds) == 0)
    starts = np.searchsorted(user, np.arange(len(users) + 1))
    return Interactions(
        items=item[order],
        times=seconds,
        ratings=rating[order].astype(np.float32),
        starts=starts,
        titles=tuple(titles),
        users=tuple(users),
        tied=int((np.append(same, False) | np.insert(same, 0, False)).sum()),
    )


def _table(path: Path) -> dict[str, list[str]]:
    """The columns of a file, by name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError("a table must exist", got=f"no {path}", fix="make data") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("a table must be a file of UTF-8", got=f"{path}: {error}") from None
    names = [each.partition(":")[0] for each in lines[0].split("\t")] if lines else []
    rows = [line.split("\t") for line in lines[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise DataError(
                f"every line must have the {len(names)} columns of the first",
                got=f"{len(row)} in line {number} of {path}",
            )
    if not rows:
        raise DataError("a table must have lines below its first", got=f"none in {path}")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _column(table: dict[str, list[str]], name: str, path: Path) -> list[str]:
    if name not in table:
        raise DataError(
            f"{path.name} must have a column {name!r}", got=f"{', '.join(table)} in {path}"
        )
    return table[name]


def _numbers(values: list[str], known: Sequence[str], what: str, path: Path) -> NDArray[np.int64]:
    """The place of each value among those that are known."""
    places = {each: place for place, each in enumerate(known)}
    if len(places) < len(known):
        raise DataError(f"every {what} must be listed once", got=f"one twice beside {path}")
    try:
        return np.array([places[each] for each in values], np.int64)
    except KeyError as error:
        line = values.index(error.args[0]) + 2
        raise DataError(
            f"every rating must be of a known {what}, one in {path.stem}.{what}",
            got=f"{what} {error.args[0]!r} in line {line} of {path}",
        ) from None


def _floats(values: list[str], name: str, path: Path) -> NDArray[np.float64]:
    try:
        found = np.array(values, np.float64)
    except ValueError as error:
        raise DataError(f"{name} must be numbers", got=f"{error} in {path}") from None
    if not np.isfinite(found).all():
        line = int(np.flatnonzero(~np.isfinite(found))[0]) + 2
        raise DataError(
            f"{name} must be finite", got=f"{values[line - 2]!r} in line {line} of {path}"
        )
    return found


def _check_pairs(
    user: NDArray[np.int64], item: NDArray[np.int64], users: int, items: int, path: Path
) -> None:
    pairs, counts = np.unique(user * items + item, return_counts=True)
    if (counts > 1).any():
        first = pairs[counts > 1][0]
        line = int(np.flatnonzero(user * items + item == first)[1]) + 2
        raise DataError(
            "a user may rate an item once", got=f"a second time in line {line} of {path}"
        )
    each = np.bincount(user, minlength=users)
    if each.min() < LEAST:
        raise DataError(
            f"every user must have {LEAST} ratings, to train, to validate and to test on",
            got=f"{each.min()} of the user in line {int(each.argmin()) + 2} of {path.stem}.user",
            fix="leave these users out",
        )
