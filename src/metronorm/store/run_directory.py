"""A run is a directory: `run.json` says what it is, and every attempt adds tapes of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
import uuid
from importlib import metadata
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import ConfigError, RunError
from metronorm.files import create_atomic, directory_aside, read_regular
from metronorm.host import describe_host
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
    """What `run.json` holds; times in nanoseconds since 1970."""

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
    """`run.json` itself; see `metronorm.store.run_config`."""

    not_finite: list[tuple[str | int, ...]] = []


def read_run_info(directory: Path) -> RunInfo:
    """Read `run.json`.

    Raises:
        RunError: no such run, a damaged file, or one written by a newer schema.
    """
    path = directory / RUN_FILE
    try:
        data = read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"a run is a directory with a {RUN_FILE}",
            got=f"{directory}, which has none",
            fix="name the run's own directory, such as runs/shakespeare",
        ) from None
    except OSError as error:
        raise RunError(
            f"a run's {RUN_FILE} must be readable", got=f"{path}: {error.strerror or error}"
        ) from None
    try:
        schema = msgspec.json.decode(data, type=dict[str, Any]).get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
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
    """What `run.json` holds of a run.

    Raises:
        ConfigError: the config holds what JSON cannot.
    """
    with _plain():
        config, not_finite = to_json(info.config)
        known = msgspec.structs.asdict(info) | {"config": config}
        file = _File(**known, not_finite=not_finite)
        return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def changes(info: RunInfo, *, name: str | None, config: dict[str, Any]) -> dict[str, Any]:
    """What a clock that resumes a run is given otherwise than `run.json` says; empty if nothing.

    `name` and `config`, each with the two values; of the config by dotted names.

    Raises:
        ConfigError: the config holds what JSON cannot.
    """
    with _plain():
        found: dict[str, Any] = {"config": differences(info.config, config)}
    if name is not None and _unicode(name) != info.name:
        found["name"] = [info.name, _unicode(name)]
    return {what: values for what, values in found.items() if values}


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError("a run's config must be plain JSON values", got=str(error)) from None


def check_free(directory: Path) -> None:
    """Raise RunError if `directory` holds a run."""
    if (directory / RUN_FILE).exists():
        raise RunError(
            "a new run needs a directory of its own",
            got=f"{directory}, which holds the run {read_run_info(directory).name!r}",
            fix="another directory, or resume that run",
        )


def create_run(
    directory: Path, *, name: str | None, config: dict[str, Any], place: Place | None = None
) -> RunInfo:
    """Make `directory` a new run, or join the one that another rank of the launch has made.

    Raises:
        RunError: it is a run already, or a file stands in its place.
        ConfigError: `config` holds what JSON cannot.
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
            raise RunError(
                "a run's directory must be writable", got=f"{directory}, a file"
            ) from None
        found = read_run_info(directory)
        # a launch may have the name of one before; then its ranks are there already
        if (
            place
            and found.launch == place.launch
            and place.rank not in map(number, tape_folders(directory, "ticks"))
        ):
            return found
        check_free(directory)
    except OSError as error:
        raise RunError(
            "a run's directory must be writable", got=f"{directory}: {error.strerror or error}"
        ) from None
    return info


def new_attempt(directory: Path, place: Place) -> int:
    """Claim an attempt for this rank: the newest if this launch has begun it, else the next.

    Making a folder is the claim, so there is no lock; a rank that is there twice in a launch gets
    an attempt of its own.

    Raises:
        OSError: the directory is not writable.
    """
    ticks = directory / "ticks"
    ticks.mkdir(parents=True, exist_ok=True)
    while True:
        newest = max(map(number, numbered(ticks, "attempt")), default=-1)
        begun = ticks / f"attempt={newest}"
        with contextlib.suppress(FileNotFoundError):
            if read_regular(begun / _LAUNCH) == place.launch.encode():
                with contextlib.suppress(FileExistsError):
                    (begun / f"rank={place.rank}").mkdir()
                    return newest
        following = ticks / f"attempt={newest + 1}"
        try:
            with directory_aside(following) as aside:
                (aside / _LAUNCH).write_bytes(place.launch.encode())
        except OSError:
            if not following.exists():  # else another rank was faster
                raise


def tape_folder(directory: Path, kind: str, attempt: int, rank: int) -> Path:
    """Where the tape of one (attempt, rank) lies."""
    return directory / kind / f"attempt={attempt}" / f"rank={rank}"


def tape_folders(directory: Path, kind: str) -> list[Path]:
    """The folders of all tapes of a kind, by attempt and rank."""
    return [
        folder
        for attempt in numbered(directory / kind, "attempt")
        for folder in numbered(attempt, "rank")
    ]


def numbered(folder: Path, what: str) -> list[Path]:
    """The hive folders `what=NUMBER` in a folder, by their numbers; others are somebody else's.

    Raises:
        RunError: the folder may not be read.
    """
    begin = f"{what}="
    found = [
        path
        for path in listed(folder)
        if path.name.startswith(begin) and path.name[len(begin) :].isdecimal()
    ]
    return sorted(found, key=number)


def listed(folder: Path) -> list[Path]:
    """What is in a folder of a run; nothing, if it is not there.

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


def number(path: Path) -> int:
    """The number in a hive folder's name: 3 for `attempt=3`."""
    return int(path.name.partition("=")[2])


def _unicode(text: str) -> str:
    """Text with what is no Unicode, such as a file's name on Linux may have, made visible."""
    return os.fsencode(text).decode(errors="backslashreplace")


def versions() -> dict[str, str]:
    """Versions of Python and of the frameworks that this process has loaded."""
    found = {"python": platform.python_version()}
    for package in _REPORTED:
        if package in sys.modules:
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the working directory and whether it has changes; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=True, timeout=5
    )
    return done.stdout.strip()
