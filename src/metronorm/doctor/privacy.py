"""A report goes to strangers: paths without the home folder, the user's and the machine's name."""

from __future__ import annotations

import getpass
import os
import platform
import re
from pathlib import Path
from typing import Any


def without_names(value: Any) -> Any:
    """The same value, with names replaced in every text inside of it.

    The home folder becomes `~`, a folder with the name of the user `USER`, and the name of the
    machine `HOST`.

    Args:
        value: text, or dicts and lists with text.
    """
    if isinstance(value, str):
        return type(value)(_replaced(value))
    if isinstance(value, dict):
        return {key: without_names(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_names(each) for each in value]
    return value


def _replaced(text: str) -> str:
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() fails where there is none
    for folder in sorted({home, os.path.realpath(home)}, key=len, reverse=True):
        if len(Path(folder).parts) > 1:  # the home folder of some containers is /
            text = re.sub(rf"(?<![\w.~-]){re.escape(folder)}(?![\w.-])", "~", text)
    if user := _user():
        text = re.sub(rf"(?<=/){re.escape(user)}(?=/|$)", "USER", text)
    host = platform.node()
    for name in (host, host.partition(".")[0]):
        if name and name != "localhost":
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "HOST", text)
    return text


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process of a user that the machine does not list
        return None
