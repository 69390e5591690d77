"""A study is a directory: what is searched, and trials, which are ordinary runs.

Nothing else is kept: a study is read from its directory at every step, so any number of processes
may work on it, and one that was killed leaves nothing behind but a trial to go on with.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from metronorm import __version__
from metronorm.errors import RunError
from metronorm.files import create_atomic, read_regular, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

    import plotly.graph_objects

FILE, TRIAL, RESULT, LOG = "study.json", "trial.json", "result.json", "log.txt"
TRIALS, CLAIMS, BEST = "trials", "claims", "best.toml"

VERSION = 1

Equal = Literal["ticks", "tokens", "seconds"]
Method = Literal["halving", "whole", "random"]
Role = Literal["default", "search", "seed"]
Status = Literal["done", "stopped", "diverged", "out of memory", "conflict", "failed"]


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What a study is; it never changes.

    Attributes:
        command: what trains: train or finetune.
        config: that all trials begin with, as plain values.
        space: as plain values.
        equal: what all trials have as much of.
        shares: of the length of a whole trial, which each rung has; the last is 1.
        method: how points are chosen.
        seed: of the search and of the trials.
        seeds: with how many the best and the default are compared at the end.
        budget: as it was asked for: "40runs", "2h".
    """

    version: int = VERSION
    metronorm: str = __version__
    command: Literal["train", "finetune"] = "train"
    config: dict[str, Any]
    space: dict[str, Any]
    equal: Equal = "ticks"
    shares: list[float]
    method: Method = "halving"
    seed: int = 0
    seeds: int = 3
    budget: str = "40runs"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be tried.

    Attributes:
        point: of the space; None: the config as it is, which lies outside the space.
        rung: how long: an index of the shares.
        role: default: the config as it is, whole; seed: the best or the default with another seed.
    """

    number: int
    point: dict[str, Any] | None
    rung: int
    role: Role = "search"
    seed: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trial.

    Attributes:
        value: of the measure at its end; None: it did not get there.
        share: of a whole trial that was trained.
        seconds: of training, in all attempts.
        reason: why it ended early.
    """

    status: Status
    value: float | None = None
    ticks: int = 0
    share: float = 0.0
    seconds: float = 0.0
    reason: str = ""


class Known(msgspec.Struct, frozen=True):
    """A trial, and its result; None: it has none yet."""

    trial: Trial
    result: Result | None

    @property
    def value(self) -> float | None:
        """Of the measure at its end."""
        return self.result.value if self.result else None


class Study:
    """A study on disk.

    Args:
        directory: of the study.
        info: as `study.json` has it.
    """

    def __init__(self, directory: Path, info: Info) -> None:
        self.directory, self.info = directory.absolute(), info
        self._results: dict[int, Result] = {}  # they never change
        self._trials: dict[int, Trial] = {}

    @property
    def measure(self) -> str:
        """The name of the measure that decides."""
        return str(self.info.config.get("best", "loss"))

    @property
    def sign(self) -> int:
        """1 if lower values are better, -1 if higher ones are."""
        return -1 if self.info.config.get("best_mode") == "max" else 1

    @property
    def top(self) -> int:
        """The rung of whole trials."""
        return len(self.info.shares) - 1

    def run(self, number: int) -> Path:
        """The directory of a trial, which is also that of its run."""
        return self.directory / TRIALS / f"{number:03d}"

    def known(self) -> list[Known]:
        """All trials, in the order of their numbers.

        Raises:
            RunError: a file of the study is damaged.
        """
        found = []
        for number, path in _numbered(self.directory / TRIALS):
            if number not in self._trials:
                trial = _read(path / TRIAL, Trial)
                if trial is None:
                    continue  # being created
                self._trials[number] = trial
            if number not in self._results:
                result = _read(path / RESULT, Result)
                if result is not None:
                    self._results[number] = result
            found.append(Known(self._trials[number], self._results.get(number)))
        return found

    def figure(self) -> plotly.graph_objects.Figure:
        """The measure over each option; see `metronorm.tune.figures.figure`."""
        from metronorm.tune.figures import figure  # reads studies

        return figure(self)

    def parallel(self) -> plotly.graph_objects.Figure:
        """Parallel coordinates of the trials; see `metronorm.tune.figures.parallel`."""
        from metronorm.tune.figures import parallel  # reads studies

        return parallel(self)

    def result(self, number: int) -> Result | None:
        """The result of a trial, if it has one."""
        if number not in self._results:
            found = _read(self.run(number) / RESULT, Result)
            if found is None:
                return None
            self._results[number] = found
        return self._results[number]

    def create(self, trial: Trial) -> bool:
        """Write a trial down; whether its number was free."""
        run = self.run(trial.number)
        try:
            run.mkdir(parents=True, exist_ok=True)
            create_atomic(run / TRIAL, _encoded(trial))
        except FileExistsError:
            return False
        except OSError as error:
            raise no_room(self.directory, error) from None
        return True

    def finish(self, number: int, result: Result) -> None:
        """Write the result of a trial down, once."""
        try:
            write_atomic(self.run(number) / RESULT, _encoded(result))
        except OSError as error:
            raise no_room(self.directory, error) from None


def create_study(directory: Path, info: Info) -> Study:
    """Begin a study.

    Raises:
        RunError: the directory holds something else, or cannot be written.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise RunError(
            "a study needs a directory of its own",
            got=f"{directory}, which holds something else",
            fix="another --study",
        )
    try:
        (directory / TRIALS).mkdir(parents=True, exist_ok=True)
        create_atomic(directory / FILE, _encoded(info))
    except FileExistsError:  # another process was faster
        return open_study(directory)
    except OSError as error:
        raise no_room(directory, error) from None
    return Study(directory, info)


def open_study(directory: Path | str) -> Study:
    """The study in a directory.

    Raises:
        RunError: there is none, or it is damaged, or of a later version.
    """
    directory = Path(directory)
    info = _read(directory / FILE, Info)
    if info is None:
        raise RunError("there must be a study", got=f"{directory}, which has no {FILE}")
    if info.version > VERSION:
        raise RunError(
            "a study must be of this version of Metronorm or an older one",
            got=f"{directory}, of Metronorm {info.metronorm}",
            fix="pip install --upgrade metronorm",
        )
    return Study(directory, info)


def no_room(directory: Path, error: OSError) -> RunError:
    """The error of a study that cannot be written; it goes on when it can."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return RunError(
        "a study's directory must be writable and have room",
        got=f"{directory}: {error.strerror or error}",
        fix="make room, then the same command again: it goes on where it was" if full else None,
    )


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    try:
        names = [path for path in folder.iterdir() if path.name.isdigit()]
    except FileNotFoundError:
        return
    for path in sorted(names, key=lambda one: int(one.name)):
        yield int(path.name), path


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(read_regular(path), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise RunError(
            "a file of a study must be readable", got=f"{path}: {error}", fix=f"remove {path}"
        ) from None


def _encoded(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
