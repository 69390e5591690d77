"""Fresh virtual environments with Metronorm's wheel.

What it needs is linked from the Python that runs the tests, as to download it takes minutes: the
packages that an extra names in the wheel's metadata, those that these need, and no others. No
compiler is on the PATH, and the sources are not on `sys.path`.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import venv
from functools import cache
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Environment:
    """A virtual environment, and what is run in it, beside it and without a compiler.

    Args:
        folder: has the environment as `env`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "env" / "bin"

    @property
    def packages(self) -> Path:
        """The folder of its packages."""
        (found,) = (self.folder / "env" / "lib").glob("python*/site-packages")
        return found

    def run(self, *command: str, code: int = 0) -> str:
        """What a command prints: to standard output, or, where it must fail, to standard error.

        Args:
            command: its first word is a program of the environment.
            code: the exit code that it must have.
        """
        program, *arguments = command
        done = subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder,
            env=self.variables(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def variables(self) -> dict[str, str]:
        """Those of a process in it."""
        kept = ("HOME", "LANG", "OMP_NUM_THREADS", "TMPDIR")
        own = {name: os.environ[name] for name in kept if name in os.environ}
        return {**own, "PATH": str(self.bin)}


def linked(
    folder: Path, wheel: Path, extras: tuple[str, ...] = (), further: tuple[str, ...] = ()
) -> Environment:
    """A fresh environment with the wheel, and links to packages that are installed here.

    Args:
        folder: to make it in.
        wheel: of Metronorm, which pip installs.
        extras: the packages that they name, and what these need, are linked.
        further: other packages to link.
    """
    venv.create(folder / "env", symlinks=True)
    made = Environment(folder)
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "--python", str(made.bin / "python"), *install], check=True)
    (info,) = made.packages.glob("metronorm-*.dist-info")
    needed = set(_needed(importlib.metadata.Distribution.at(info), extras))
    for name in needed | {other for each in further for other in _closure(each)}:
        _link(name, made.packages)
    return made


@cache
def _closure(name: str) -> frozenset[str]:
    """A package that is installed here and all that it needs; extras of packages are left out."""
    found, left = set(), {name}
    while left:
        each = left.pop()
        found.add(each)
        left |= set(_needed(importlib.metadata.distribution(each), ())) - found
    return frozenset(found)


def _needed(
    distribution: importlib.metadata.Distribution, extras: tuple[str, ...]
) -> Iterator[str]:
    """Names of the packages that one needs, and for Metronorm of those that they need."""
    is_ours = distribution.metadata["Name"] == "metronorm"
    for text in distribution.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        if requirement.name == "metronorm":
            yield from _needed(distribution, tuple(requirement.extras))
        elif is_ours:
            yield from _closure(requirement.name)
        else:
            # an extra of a dependency, such as uvicorn[standard], is part of what it needs
            yield requirement.name
            if requirement.extras:
                other = importlib.metadata.distribution(requirement.name)
                yield from _needed(other, tuple(requirement.extras))


def _link(name: str, packages: Path) -> None:
    """Link the files of a package that is installed here."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
        here, there = distribution.locate_file(top), packages / top
        if top == "__pycache__":
            continue
        if top in _shared_folders():  # of several packages: only the files of this one
            for file in distribution.files or ():
                if file.parts[0] == top and file.suffix != ".pyc":
                    (packages / file).parent.mkdir(parents=True, exist_ok=True)
                    (packages / file).symlink_to(distribution.locate_file(file))
        elif not there.exists():
            there.symlink_to(here)


@cache
def _shared_folders() -> frozenset[str]:
    """Folders that several packages write into, such as `google`."""
    return frozenset(
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if len({*packages}) > 1
    )
