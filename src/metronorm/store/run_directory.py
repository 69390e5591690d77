"""A run is a directory: `run.json` describes it, and every attempt adds its own tapes.

| path | |
| --- | --- |
| `run.json` | the description, a `RunInfo` |
| `KIND/attempt=N/rank=R/` | a tape; KIND is one of `schema.KINDS` |
| `ticks/attempt=N/.launch` | the launch that began the attempt |
| `.owners/rank=R` | the process that writes the rank; see `owner.py` |
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import ConfigError, RunError
from metronorm.files import create_atomic, directory_aside, read_regular
from metronorm.host import describe_host
from metronorm.scalars import as_integer
from metronorm.store.run_config import differences, from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metronorm.ranks import Place

SCHEMA = 1
RUN_FILE = "run.json"
_LAUNCH = ".launch"
_REPORTED = ("metronorm", "torch", "tensorflow", "jax", "keras", "numpy")


class RunInfo(msgspec.Struct, kw_only=True):
    """The description of a run, as `run.json` holds it.

    `created_ns` is in nanoseconds since 1970. `launch` is the launch that made the run, `git` the
    commit and whether the checkout had changes, or None.
    """

    schema: int
    id: str
    name: str
    created_ns: int
    config: dict[str, Any]
    command: list[str]
    versions: dict[str, str]
    git: dict[str, Any] | None
    host: dict[str, Any]
    launch: str = ""


class _File(RunInfo, omit_defaults=True):
    """The file `run.json` itself; see `metronorm.store.run_config`."""

    not_finite: list[tuple[str | int, ...]] = []


def read_run_info(directory: Path) -> RunInfo:
    """Read the description of the run in a directory.

    Raises:
        RunError: there is no run, its `run.json` is damaged, or it has a newer schema.
    """
    path = directory / RUN_FILE
    try:
        data = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"a run is a directory with a {RUN_FILE}",
            got=f"{directory}, which {'has none' if directory.exists() else 'does not exist'}",
            fix="metronorm runs, which lists the runs below the folder runs",
        ) from None
    except OSError as error:
        raise RunError(
            f"a run's {RUN_FILE} must be readable", got=f"{path}: {error.strerror or error}"
        ) from None
    try:
        schema = as_integer(msgspec.json.decode(data, type=dict[str, Any]).get("schema"))
        if schema is not None and schema > SCHEMA:
            raise RunError(
                f"this version reads run schema {SCHEMA} and older",
                got=f"schema {schema} in {path}",
                fix="upgrade metronorm",
            )
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RunError(
            f"{path} must be a run description", got=f"a damaged file ({error})"
        ) from None
    known = {name: getattr(file, name) for name in RunInfo.__struct_fields__}
    return RunInfo(**known | {"config": from_json(file.config, file.not_finite)})


def run_file(info: RunInfo) -> bytes:
    """The content of `run.json` for a run.

    Raises:
        ConfigError: the config holds something that JSON cannot hold.
    """
    with _config_errors():
        config, not_finite = to_json(info.config)
        known = msgspec.structs.asdict(info) | {"config": config}
        file = _File(**known, not_finite=not_finite)
        return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def changes(info: RunInfo, *, name: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """What differs between a run and the arguments of a clock that resumes it.

    Args:
        info: the description of the run.
        name: the new name; None: the clock has none.
        config: the new config, or a part of it.

    Returns:
        `{"name": [old, new], "config": {DOTTED_NAME: [old, new], ...}}`; equal values are left out.

    Raises:
        ConfigError: the config holds something that JSON cannot hold.
    """
    with _config_errors():
        found: dict[str, Any] = {"config": differences(info.config, config)}
    if name is not None and _unicode(name) != info.name:
        found["name"] = [info.name, _unicode(name)]
    return {key: values for key, values in found.items() if values}


@contextlib.contextmanager
def _config_errors() -> Iterator[None]:
    """Turn the errors of a config that JSON cannot hold into a ConfigError."""
    try:
        yield
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError("a run's config must be plain JSON values", got=str(error)) from None


def check_free(directory: Path) -> None:
    """Check that a directory holds no run, nor what is left of one.

    Raises:
        RunError: it does, or its name is none that the file system takes.
    """
    try:
        left = [name for name in ("ticks", "checkpoints") if (directory / name).exists()]
        is_run = (directory / RUN_FILE).exists()
        there = next(each for each in (directory, *directory.parents) if each.exists())
        if not there.is_dir():
            raise _no_directory(there)
    except OSError as error:
        raise RunError(
            "a run's directory must be writable", got=f"{directory}: {error.strerror or error}"
        ) from None
    if is_run:
        raise RunError(
            "a new run needs a directory of its own",
            got=f"{directory}, which holds the run {read_run_info(directory).name!r}",
            fix="another directory, or resume that run",
        )
    if left:
        raise RunError(
            "a new run needs a directory of its own",
            got=f"{directory}, which holds {' and '.join(left)} of a run without its {RUN_FILE}",
            fix=f"another directory, or put {RUN_FILE} back",
        )


def _no_directory(path: Path) -> RunError:
    return RunError(
        "a run needs a directory of its own", got=f"{path}, a file", fix="another directory"
    )


def create_run(
    directory: Path, *, name: str | None, config: dict[str, Any], place: Place | None = None
) -> RunInfo:
    """Make `directory` a new run, or join the run that another rank of the launch has made.

    Args:
        directory: the directory, which need not exist.
        name: the name of the run; None: the name of the directory.
        config: the config of the run: plain JSON values, NaN and infinities.
        place: the rank and launch of this process; None: it joins no run.

    Raises:
        RunError: the directory already holds a run, is a file, or is not writable.
        ConfigError: `config` holds something that JSON cannot hold.
    """
    info = RunInfo(
        schema=SCHEMA,
        id=uuid.uuid4().hex,
        name=_unicode(name or directory.resolve().name),
        created_ns=time.time_ns(),
        config=config,
        command=list(map(_unicode, sys.argv)),
        versions=versions(),
        git=git_state(),
        host=describe_host(),
        launch=place.launch if place else "",
    )
    data = run_file(info)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        create_atomic(directory / RUN_FILE, data)
    except FileExistsError:
        if not (directory / RUN_FILE).exists():
            raise _no_directory(directory) from None
        found = read_run_info(directory)
        # an earlier launch may have had the same name: then its ranks already have tapes
        if (
            place
            and found.launch == place.launch
            and place.rank not in map(folder_number, tape_folders(directory, "ticks"))
        ):
            return found
        check_free(directory)
    except OSError as error:
        raise RunError(
            "a run's directory must be writable", got=f"{directory}: {error.strerror or error}"
        ) from None
    return info


def new_attempt(directory: Path, place: Place) -> int:
    """Claim an attempt for a rank, without a lock: making a folder succeeds in one process only.

    | the newest attempt | its folder of this rank | the claim |
    | --- | --- | --- |
    | was begun by this launch | is not there | the newest attempt: makes the folder |
    | was begun by this launch | is there: the rank is twice in the launch | the next attempt |
    | was begun by another launch, or there is none | | the next attempt |

    The folder of the next attempt appears with its `.launch`, in one rename. If another rank was
    faster, the table is read again, and that attempt is the newest.

    Args:
        directory: the directory of the run.
        place: the rank and launch of this process.

    Returns:
        The number of the attempt.

    Raises:
        OSError: the directory is not writable.
    """
    ticks = directory / "ticks"
    ticks.mkdir(parents=True, exist_ok=True)
    while True:
        newest = max(map(folder_number, numbered_folders(ticks, "attempt")), default=-1)
        newest_folder = ticks / f"attempt={newest}"
        with contextlib.suppress(FileNotFoundError):
            if read_regular(newest_folder / _LAUNCH) == place.launch.encode():
                with contextlib.suppress(FileExistsError):
                    (newest_folder / f"rank={place.rank}").mkdir()
                    return newest
        next_folder = ticks / f"attempt={newest + 1}"
        try:
            with directory_aside(next_folder) as aside:
                (aside / _LAUNCH).write_bytes(place.launch.encode())
        except OSError:
            if not next_folder.exists():  # else another rank was faster
                raise


def tape_folder(directory: Path, kind: str, attempt: int, rank: int) -> Path:
    """The folder of the tape of one (kind, attempt, rank)."""
    return directory / kind / f"attempt={attempt}" / f"rank={rank}"


def tape_folders(directory: Path, kind: str) -> list[Path]:
    """The folders of all tapes of a kind, sorted by attempt and rank.

    Raises:
        RunError: a folder may not be read.
    """
    return [
        folder
        for attempt in numbered_folders(directory / kind, "attempt")
        for folder in numbered_folders(attempt, "rank")
    ]


def numbered_folders(folder: Path, key: str) -> list[Path]:
    """The folders `KEY=NUMBER` in a folder, sorted by number; all other names are ignored.

    Raises:
        RunError: the folder may not be read.
    """
    prefix = f"{key}="
    found = [
        path
        for path in paths_in(folder)
        if path.name.startswith(prefix) and path.name[len(prefix) :].isdecimal()
    ]
    return sorted(found, key=folder_number)


def paths_in(folder: Path) -> list[Path]:
    """The paths in a folder of a run; none if there is no such folder.

    Raises:
        RunError: the folder may not be read.
    """
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RunError(
            "a run's folders must be readable", got=f"{folder}: {error.strerror or error}"
        ) from None


def folder_number(path: Path) -> int:
    """The number in the name of a folder `KEY=NUMBER`: 3 for `attempt=3`."""
    return int(path.name.partition("=")[2])


def _unicode(text: str) -> str:
    r"""Text that JSON can hold: bytes of a file's name that are no Unicode become `\xff`."""
    return os.fsencode(text).decode(errors="backslashreplace")


def versions() -> dict[str, str]:
    """The versions of Python and of the frameworks that this process has imported."""
    found = {package: _version(package) for package in _REPORTED if package in sys.modules}
    known = {package: version for package, version in found.items() if version is not None}
    return {"python": platform.python_version()} | known


@functools.cache  # it reads all of a package's description
def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """The `commit` of the working directory, and whether it is `dirty`; None outside of git."""
    import subprocess

    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    import subprocess

    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, timeout=5
    )
    return done.stdout.strip()
