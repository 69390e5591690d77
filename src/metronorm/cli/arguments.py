"""Command lines into dataclasses by tyro, and its complaints into one line."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from typing import TypeVar

import tyro

from metronorm.errors import ConfigError

T = TypeVar("T")

_BOX = re.compile(r"^[╭╰].*$|^│\s*─*|\s*│$", re.MULTILINE)
_NOISE = re.compile(r"Error parsing [\w.]+: |For full helptext,.*")


def parse(
    kind: type[T], argv: list[str], *, command: str, description: str, default: T | None = None
) -> T:
    """An instance of the dataclass `kind` from the arguments of `metronorm COMMAND`.

    `--help` prints and exits.

    Raises:
        ConfigError: unknown options, or values that cannot work, in one line.
    """
    for option, value in pairwise([*argv, "--"]):
        if option == "--data" and value.startswith("--"):  # as where a shell's glob found nothing
            raise ConfigError("--data needs a file, a folder or a glob", got="none")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=argv,
                prog=f"metronorm {command}",
                description=description,
                default=tyro.MISSING_NONPROP if default is None else default,
            )
    except SystemExit as end:
        if not end.code:
            raise
        text = " ".join(_NOISE.sub("", _BOX.sub("", complaint.getvalue())).split()).rstrip(".")
        fix = None if "; try: " in text else f"metronorm {command} --help"
        raise ConfigError(text, fix=fix) from None
