"""The packages that Metronorm depends on: what is installed, what is missing, and for what."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

# What each extra is for. `bench`, `dev` and `docs` are for people who change Metronorm.
EXTRAS = {
    "torch": "metronorm.norm, metronorm.optim, metronorm.loss",
    "train": "metronorm train, prepare and sample",
    "text": "metronorm prepare of .zst, of saved data sets, and without near copies",
    "sound": "metronorm.data.read_sound and the recipes of speech",
    "finetune": "metronorm finetune, evaluate and chat",
    "tune": "metronorm tune",
    "board": "metronorm board",
    "analysis": "data frames and Arrow tables of a run, plots",
    "notebook": "runs and figures in a notebook",
    "gpu": "GPUs among the resources of a run",
    "keras": "metronorm.keras",
    "tensorboard": "metronorm import and export for TensorBoard",
    "prometheus": "metronorm.integrations.prometheus",
    "opentelemetry": "metronorm.integrations.opentelemetry",
}
# What no extra installs, because whoever needs it has it.
FURTHER = {
    "accelerate": "metronorm.integrations.accelerate",
    "jax": "metronorm.keras on JAX",
    "lightning": "metronorm.integrations.lightning",
    "tensorflow": "metronorm.keras on TensorFlow",
    "triton": "kernels of metronorm.norm on GPUs",
    "trackio": "metronorm train --mirror trackio",
    "wandb": "metronorm import of .wandb files; metronorm train --mirror wandb",
}


class Needed(NamedTuple):
    """A package that something needs.

    Attributes:
        name: as pip knows it.
        versions: what is allowed, such as ">=2.10".
        version: what is installed; None: nothing.
        fits: whether it is installed in a version that is allowed.
    """

    name: str
    versions: str
    version: str | None
    fits: bool

    def __str__(self) -> str:
        if self.version is None:
            return f"{self.name} missing"
        return f"{self.name} {self.version}" + ("" if self.fits else f" (needs {self.versions})")


@dataclass(frozen=True)
class Extra:
    """What an extra installs, and what is there of it.

    Attributes:
        packages: that it adds, with their versions; None: not installed.
        missing: packages that are not there, or are not in a version that is allowed.
        purpose: what needs them.
        install: the command that installs them.
    """

    packages: dict[str, str | None]
    missing: list[str]
    purpose: str
    install: str

    def __str__(self) -> str:
        there = [f"{name} {version}" for name, version in self.packages.items() if version]
        if not self.missing:
            return ", ".join(there)
        also = f"; there: {', '.join(there)}" if there else ""
        return f"{', '.join(self.missing)}; needed for {self.purpose}: {self.install}{also}"


def extra_named(name: str) -> Extra:
    """What an extra of `EXTRAS` installs.

    Raises:
        importlib.metadata.PackageNotFoundError: Metronorm is not installed as a package.
    """
    needed = needed_by(name)
    return Extra(
        {each.name: each.version for each in needed},
        [str(each) for each in needed if not each.fits],
        EXTRAS[name],
        f"pip install 'metronorm[{name}]'",
    )


def needed_by(extra: str | None) -> list[Needed]:
    """The packages that every installation needs, or those that an extra adds.

    Args:
        extra: the name of an extra; None: every installation.

    Raises:
        importlib.metadata.PackageNotFoundError: Metronorm is not installed as a package.
    """
    return [_look_up(each) for each in _requirements(extra)]


def version_of(name: str) -> str | None:
    """The version of a package that is installed; None: it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_importable(module: str) -> bool:
    """Whether Python finds a module; it is not loaded."""
    return importlib.util.find_spec(module) is not None


def _requirements(extra: str | None) -> Iterator[Requirement]:
    for text in metadata.requires("metronorm") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        chosen = marker is None or marker.evaluate({"extra": extra or ""})
        if not chosen or (extra is not None and always):
            continue
        if requirement.name == "metronorm":  # an extra that contains others
            for other in sorted(requirement.extras):
                yield from _requirements(other)
        else:
            yield requirement


def _look_up(requirement: Requirement) -> Needed:
    version = version_of(requirement.name)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    return Needed(requirement.name, str(requirement.specifier), version, fits)
