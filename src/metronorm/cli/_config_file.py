"""The file of options that `--config` names: its paths and its data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from metronorm.data.sources import STDIN, absolute
from metronorm.errors import DataError
from metronorm.train.config_changes import read_toml

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.train.config import TrainConfig
    from metronorm.train.task import Task

Config = TypeVar("Config", bound="TrainConfig")


def read_options(file: Path) -> dict[str, Any]:
    """The options in a TOML file, by name; relative paths begin at the folder of the file.

    A pipe has no folder: there they begin at the working folder. A value of a wrong kind is left
    for the check of the whole config.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    values = read_toml(file)
    folder = file.absolute().parent if file.is_file() else Path.cwd()
    for table, names in (
        (values, ("recipe", "init_from", "model", "general")),
        (values.get("text"), ("data", "validation_data", "tokenizer_file", "cache")),
        (values.get("data"), ("data", "validation_data")),
    ):
        if isinstance(table, dict):
            table |= {name: _below(folder, table[name]) for name in names if name in table}
    return values


def _below(folder: Path, value: Any) -> Any:
    """A path, or each of a list of paths, as it is meant in a file of this folder."""
    if isinstance(value, list):
        return [_below(folder, each) for each in value]
    if not isinstance(value, str) or value in ("", STDIN):
        return value
    return absolute(value, folder)


def with_data_of(file: str, data_id: str, task: Callable[[Config], Task]) -> Callable[..., Task]:
    """The task of a new run, which must have the data that `data_id` in the file is a hash of.

    Raises:
        DataError: by the function that is returned; its data has another hash.
    """

    def same(config: Config) -> Task:
        from metronorm.train.preparing import made  # loads torch

        whole, found = made(task, replace(config, data_id=""))
        if found.data_id not in ("", data_id):
            raise DataError(
                f"the data must be that of data_id in {file}",
                got="data, or a way to prepare it, with another hash",
                fix=f"remove the line data_id from {file}, or name the same data",
            )
        return whole

    return same
