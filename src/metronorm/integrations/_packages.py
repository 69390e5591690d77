"""Optional packages: a clear error where one is missing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from metronorm.errors import MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needs(*packages: str, fix: str, what: str = "this") -> Iterator[None]:
    """Turn a failed import inside of the block into an error that says what to install.

    Args:
        packages: the names that are imported; an error about any other module is raised as it is.
        fix: what to try, such as "pip install lightning".
        what: the subject of the error's first sentence.

    Raises:
        MissingDependencyError: one of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise MissingDependencyError(f"{what} needs the package {packages[0]}", fix=fix) from None
