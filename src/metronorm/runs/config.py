"""The config of a run as its newest attempt has it; `run.json` keeps that of the first attempt.

| a later attempt records it | as |
| --- | --- |
| if it gave its clock another config | an event `changed`: `{"config": {NAME: [FIRST, NEW]}}` |
| if it is a training | the file `config.toml` of the run, written anew |

Of the file only names count that `run.json` has: a script may have a file of that name too.
"""

from __future__ import annotations

import copy
import tomllib
from typing import TYPE_CHECKING, Any

from metronorm.files import read_regular
from metronorm.runs.events import read_events
from metronorm.scalars import is_integer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from metronorm.runs.events import Event
    from metronorm.runs.reader import Run
    from metronorm.runs.table import Table

_FILE = "config.toml"


def read_config(run: Run, events: Table) -> dict[str, Any]:
    """The config of the newest attempt of a run.

    Args:
        run: the run.
        events: its events, as `run.events()` gives them.
    """
    return with_file(with_changes(run, events), run.directory)


def with_changes(run: Run, events: Table) -> dict[str, Any]:
    """The config that the clock of the newest attempt was given; see `read_config`."""
    newest = max(run.attempts, default=-1)
    changed = read_events(events, f"attempt = {newest} and event = 'changed'")
    return changed_by(run.info.config, changed)


def changed_by(config: dict[str, Any], events: Iterable[Event]) -> dict[str, Any]:
    """A config with the changes of an attempt.

    Args:
        config: that of `run.json`; not changed.
        events: those called `changed`, of the attempt.
    """
    config = copy.deepcopy(config)
    for event in events:
        changes = event.fields.get("config")
        for name, values in changes.items() if isinstance(changes, dict) else ():
            if isinstance(values, list) and len(values) == 2:
                _replace(config, name.split("."), values[1])
    return config


def with_file(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    """A config with the values that the run's `config.toml` has now, if there is one.

    Args:
        config: of the run; not changed.
        directory: the directory of the run.
    """
    try:
        return _overlaid(config, tomllib.loads(read_regular(directory / _FILE).decode()))
    except (OSError, ValueError, RecursionError):  # there is none, or it is no TOML
        return config


def planned_ticks(config: dict[str, Any]) -> int | None:
    """The number of ticks that a config plans; None if it does not say."""
    ticks = config.get("ticks")
    return ticks if is_integer(ticks) else None


def _replace(config: dict[str, Any], path: list[str], value: Any) -> None:
    *outer, last = path
    for name in outer:
        inner = config.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        config = inner
    config[last] = value


def _overlaid(config: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    found = dict(config)
    for name, value in newer.items():
        old = config.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            found[name] = _overlaid(old, value)
        elif name in config:
            found[name] = value
    return found
