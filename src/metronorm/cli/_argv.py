"""A look at the arguments of a command before tyro parses them."""

from __future__ import annotations

from itertools import pairwise

from metronorm.errors import ConfigError

_PATHS = (
    "--run",
    "--resume",
    "--resume-or-start",
    "--recipe",
    "--config",
    "--init-from",
    "--cache",
    "--study",
    "--space",
)


def value_of(name: str, argv: list[str]) -> str | None:
    """The value that the arguments give an option, the last time; None: they do not name it.

    Args:
        name: the option, with its short name if it has one: "--ticks", "--ticks/-t".
        argv: the arguments of a command.
    """
    for option in reversed(name.split("/")):
        for argument, following in reversed([*pairwise([*argv, ""])]):
            if argument.replace("_", "-") == option:
                return following
            if argument.replace("_", "-").startswith(f"{option}="):
                return argument.partition("=")[2]
    return None


def check_paths(argv: list[str]) -> None:
    """Refuse options without a path, which a shell leaves where it found nothing.

    Raises:
        ConfigError: `--data` stands before another option, as after a glob that matched no file;
            or a path is empty, as of a variable that is not set.
    """
    for option, value in pairwise([*argv, "--"]):
        if option in ("--data", "--validation-data") and value.startswith("--"):
            raise ConfigError(f"{option} needs a file, a folder or a glob", got="none")
        name, equals, same = option.partition("=")
        name = name.replace("_", "-")
        if name in _PATHS and not (same if equals else value):
            raise ConfigError(f"{name} needs a path", got="''", fix="'.' for the current folder")
