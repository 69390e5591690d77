"""The figures of recipes: `recipes/results/NAME.json`, a list of rows, which is committed.

A row says what was measured, with which command, of which commit, on what, and with which versions:
the last four are those of the run.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metronorm.clock import read_run_info
from metronorm.errors import ConfigError, MetronormError
from metronorm.host import describe_host
from metronorm.store.run_directory import git_state, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FOLDER = Path(__file__).parents[1] / "results"


def add(name: str, run: Path, figures: dict[str, Any], *, folder: Path = FOLDER) -> None:
    """Add a row of a run.

    Args:
        name: of the recipe.
        run: the directory of its run.
        figures: what was measured.
        folder: of the results.
    """
    info = read_run_info(run)
    # where the run lies says nothing about what was measured
    where = r"--(run|resume|resume-or-start)[= ]\S+|--publish"
    words = re.sub(where, "", " ".join(sys.argv[1:])).split()
    options = [f"runs/{Path(word).name}" if word.startswith("/") else word for word in words]
    command = " ".join(["python", f"recipes/{Path(sys.argv[0]).name}", *options])
    minutes = (time.time_ns() - info.created_ns) / 60e9
    append(name, figures, command, minutes, (info.git, info.host, info.versions), folder=folder)


def append(
    name: str,
    figures: dict[str, Any],
    command: str,
    minutes: float,
    where: tuple[dict[str, Any] | None, dict[str, Any], dict[str, str]] | None = None,
    *,
    folder: Path = FOLDER,
) -> None:
    """Add a row. Several processes may do so at once.

    Args:
        name: of the recipe.
        figures: what was measured.
        command: which measures it again.
        minutes: that it took.
        where: state of the repository, host and versions. None: those of this process.
        folder: of the results.
    """
    git, host, of_packages = where or (git_state(), describe_host(), versions())
    git = git or {}
    row = figures | {
        "minutes": round(minutes, 2),
        "command": command,
        "commit": str(git.get("commit"))[:12] + ("+" if git.get("dirty") else ""),
        "machine": f"{host['cores']} cores, {host['processor']}",
        "versions": of_packages,
        "date": time.strftime("%Y-%m-%d", time.gmtime(time.time() - minutes * 60)),
    }
    path = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        lines = [json.dumps(each) for each in [*rows(name, folder=folder), row]]
        aside = path.with_suffix(".new")
        aside.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
        aside.replace(path)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process adds a row meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def rows(name: str, *, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The rows of a recipe, the oldest first."""
    path = folder / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
    return found


def train(
    file: str,
    named: Sequence[str],
    beside: Callable[[Path, dict[str, Any]], dict[str, Any]] | None = None,
) -> int:
    """`metronorm train --recipe FILE`, with the arguments of this process; its exit code.

    With `--publish` (and `--run`) what the test set says is added to the recipe's figures, with the
    learning rate, where the time went, and how large gradients were, if that was observed.

    Args:
        file: of the recipe.
        named: fields of its `Config` that say which row it is.
        beside: further figures, such as those of a baseline, by the run and its config.
    """
    from metronorm.cli import main

    argv = [each for each in sys.argv[1:] if each != "--publish"]
    if len(argv) == len(sys.argv) - 1:
        return main(["train", "--recipe", file, *argv])
    try:
        run = _run_of(argv)
        code = main(["train", "--recipe", file, *argv])
        if not code:
            config = read_run_info(run).config
            row = {name: config[name] for name in named} | {"ticks": config["ticks"]}
            row |= {"learning_rate": config["optimizer"]["learning_rate"]}
            row |= tested(run) | seconds(run) | gradients(run)
            add(Path(file).stem, run, row | (beside(run, config) if beside else {}))
    except MetronormError as error:
        print(f"{Path(file).stem}: {error}", file=sys.stderr)
        return 2
    return code


def tested(run: Path) -> dict[str, float]:
    """What the test set said at the end of a training, by name; and what is called `training_...`.

    Raises:
        ConfigError: the training has not come to its end.
    """
    from metronorm.runs import open_run

    last = open_run(run).ticks().rows()[-1]
    found = {
        name.removeprefix("test_"): value
        for name, value in last.items()
        if name.startswith(("test_", "training_")) and value is not None
    }
    if not found:
        raise ConfigError("figures are those of a training that has ended", got=str(run))
    return found


def seconds(run: Path) -> dict[str, float]:
    """Seconds in all ticks, as `tick_seconds`, and in each phase of them, over all attempts."""
    from metronorm.runs import open_run

    ticks = open_run(run).ticks()
    names = ["wall", *ticks.phases]
    sums = ", ".join(f'sum("{name}_ns") / 1e9' for name in names)
    (row,) = ticks.fetch(f"select {sums} from ticks")
    return {
        f"{'tick' if name == 'wall' else name}_seconds": float(value or 0)
        for name, value in zip(names, row, strict=True)
    }


def gradients(run: Path) -> dict[str, float]:
    """2-norms of the gradient of the first and the last layer that is no norm: medians over ticks.

    Nothing, if `metronorm.tasks.observe` has not observed the run.
    """
    from metronorm.runs import open_run

    ticks = open_run(run).ticks()
    names = [name for name in ticks.metrics if re.match(r"gradient\.(?!.*norm)", name)]
    if not names:
        return {}
    medians = ", ".join(f'median("{name}")' for name in (names[0], names[-1]))
    (row,) = ticks.fetch(f"select {medians} from ticks")
    return {"gradient_first": float(row[0]), "gradient_last": float(row[1])}


def _run_of(argv: Sequence[str]) -> Path:
    for word, value in zip(argv, [*argv[1:], ""], strict=False):
        name, sign, given = word.partition("=")
        if name in ("--run", "--resume", "--resume-or-start") and (given if sign else value):
            return Path(given if sign else value)
    raise ConfigError("what is published needs a directory", got="no --run", fix="--run runs/NAME")
