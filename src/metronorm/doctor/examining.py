"""The examination: first everything is read, then what was read is judged."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import metronorm
from metronorm.doctor import machine
from metronorm.doctor.packages import (
    EXTRAS,
    FURTHER,
    extra_named,
    is_importable,
    needed_by,
    version_of,
)
from metronorm.doctor.privacy import without_names
from metronorm.doctor.report import NotRead, Problem, Report, read
from metronorm.doctor.torch_loading import load_torch
from metronorm.text import size

if TYPE_CHECKING:
    from collections.abc import Iterator

# They change what Metronorm or torch does. No others are shown: they may hold secrets.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "KERAS_BACKEND",
    "LANG",
    "LC_ALL",
    "LD_PRELOAD",
    "METRONORM_KERNELS",
    "METRONORM_NORM",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "PYTHONUTF8",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TRITON_INTERPRET",
)
_COMPILED = ("duckdb", "msgspec", "psutil")  # of the packages that every command needs
_LEAST_SHARED_BYTES = 16 << 20  # the rings of one process take a third of it
_LEAST_FREE_BYTES = 1 << 30
_BUILT = "a wheel of Metronorm, or a compiler for C++20 when it is installed from source"


def examine() -> Report:
    """Examine this installation and machine; what cannot be read is a part of the report."""
    loaded, torch_fault = _torch()
    folder = Path("runs") if Path("runs").is_dir() else Path()
    sections: dict[str, dict[str, Any]] = {
        "software": _software(),
        "torch": loaded,
        "machine": {
            "CPU": read(machine.cpu),
            "instruction_sets": read(machine.instruction_sets),
            "memory": read(machine.memory),
            "shared_memory": read(machine.shared_memory),
            "disk": read(machine.disk, folder),
            "GPUs": read(machine.gpus),
            "compiler": read(machine.compiler),
        },
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "packages": _packages(),
        "extras": {name: read(extra_named, name) for name in EXTRAS},
    }
    problems = [
        *_of_packages(),
        *_of_torch(loaded, torch_fault),
        *_of_parts(sections["software"]),
        *_of_machine(sections["machine"]),
        *_of_optional_packages(),
    ]
    problems.sort(key=lambda problem: not problem.is_broken)
    told = [replace(each, what=without_names(each.what)) for each in problems]
    return Report(without_names(sections), tuple(told))


def _software() -> dict[str, Any]:
    return {
        "metronorm": f"{metronorm.__version__}, {Path(metronorm.__file__).parent}",
        "Python": f"{platform.python_version()} ({platform.python_implementation()}), "
        f"{sys.executable}",
        "system": read(platform.platform),
        "encoding": f"output {getattr(sys.stdout, 'encoding', None)}, "
        f"file names {sys.getfilesystemencoding()}",
        "clock": read(_clock),
        "uPlot": read(_uplot),
    }


def _clock() -> str:
    from metronorm.clock import _ticking

    return f"C++, {Path(_ticking.__file__).name}"


def _uplot() -> str:
    from metronorm.board.uplot import VERSION, uplot_folder

    uplot_folder()
    return VERSION


def _torch() -> tuple[dict[str, Any], str | None]:
    """What was loaded, and why not all of it was."""
    if read(is_importable, "torch") is not True:
        return {"version": None}, None
    found = read(load_torch)
    return ({}, str(found)) if isinstance(found, NotRead) else found


def _packages() -> dict[str, Any]:
    needed = read(needed_by, None)
    if isinstance(needed, NotRead):
        return {"needed": needed}
    return {
        **{each.name: each.version for each in needed},
        "without an extra": {name: version_of(name) for name in FURTHER},
    }


def _of_packages() -> Iterator[Problem]:
    try:
        needed = needed_by(None)
    except metadata.PackageNotFoundError:
        yield Problem(
            "metronorm must be installed as a package; its files are there, its metadata is not",
            "pip install metronorm",
        )
        return
    for each in needed:
        if not each.fits:
            yield Problem(
                f"every command needs {each.name}{each.versions}; got {each.version or 'none'}",
                f"pip install '{each.name}{each.versions}'",
                is_broken=True,
            )
    for name in _COMPILED:
        loaded = read(importlib.import_module, name)
        if isinstance(loaded, NotRead):
            yield Problem(
                f"{name} must load; got {loaded}",
                f"pip install --force-reinstall {name}",
                is_broken=True,
            )


def _of_torch(loaded: dict[str, Any], fault: str | None) -> Iterator[Problem]:
    if fault and "version" not in loaded:
        yield Problem(
            f"torch must load; got {fault}",
            "install torch anew, in the build for this machine",
            is_broken=True,
        )
    elif fault and "norm_backend" not in loaded:
        yield Problem(
            f"the kernels of metronorm.norm must load; got {fault}",
            "METRONORM_NORM=plain in the environment, and a report of this",
            is_broken=True,
        )
    elif fault:
        yield Problem(
            f"torch must find its devices; got {fault}",
            "install torch anew, in the build for this machine",
            is_broken=True,
        )
    if warning := loaded.get("norm_warning"):
        yield Problem(warning, _BUILT)


def _of_parts(software: dict[str, Any]) -> Iterator[Problem]:
    if isinstance(software["clock"], NotRead):
        yield Problem(
            f"the clock takes longer for a tick without its C++: {software['clock']}",
            _BUILT,
        )
    if isinstance(software["uPlot"], NotRead):
        yield Problem(
            "the page of metronorm board needs uPlot, which is not there",
            "python -m metronorm.board.uplot",
        )


def _of_machine(found: dict[str, Any]) -> Iterator[Problem]:
    shared, disk = found["shared_memory"], found["disk"]
    if isinstance(shared, dict) and not shared["writable"]:
        yield Problem(
            f"{shared['folder']} must be writable, or a killed training loses its newest ticks",
            "other permissions",
        )
    elif isinstance(shared, dict) and shared["free_bytes"] < _LEAST_SHARED_BYTES:
        yield Problem(
            f"{shared['folder']} must have {size(_LEAST_SHARED_BYTES)} free, or a killed training "
            f"loses its newest ticks; got {size(shared['free_bytes'])}",
            "remove files from it, or give the container more (docker run --shm-size)",
        )
    if isinstance(disk, dict) and not disk["writable"]:
        yield Problem(
            f"the folder of runs must be writable; {disk['folder']} is not", "another folder"
        )
    elif isinstance(disk, dict) and disk["free_bytes"] < _LEAST_FREE_BYTES:
        yield Problem(
            f"the disk of runs should have {size(_LEAST_FREE_BYTES)} free for checkpoints; got "
            f"{size(disk['free_bytes'])}",
            "remove what is not needed, or write runs elsewhere",
        )


def _of_optional_packages() -> Iterator[Problem]:
    """Packages in a version that is not allowed; what is missing is no problem, but a choice."""
    seen = set()
    for extra, purpose in EXTRAS.items():
        needed = read(needed_by, extra)
        for each in () if isinstance(needed, NotRead) else needed:
            if each.version is not None and not each.fits and each.name not in seen:
                seen.add(each.name)
                yield Problem(
                    f"{purpose}: {each.name} must be {each.versions}; got {each.version}",
                    f"pip install 'metronorm[{extra}]'",
                    is_broken=each.name == "torch",
                )
