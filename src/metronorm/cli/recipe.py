"""A recipe: a Python file with `Config`, a subclass of TrainConfig, and `task(config)`."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_type_hints

from metronorm.errors import ConfigError
from metronorm.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from metronorm.train.task import Task


class Recipe(NamedTuple):
    """What a recipe's file defines."""

    config: type[TrainConfig]
    task: Callable[[TrainConfig], Task]
    description: str


def load_recipe(path: str) -> Recipe:
    """Run a recipe's file and take its `Config` and `task`.

    Raises:
        ConfigError: no such file, one that is no Python, or one without them; a `Config` that is
            no dataclass, or has a field without a default.
    """
    file = Path(path).absolute()
    if not file.is_file():
        near = ", ".join(sorted(str(one) for one in Path(path).parent.glob("*.py"))[:8])
        raise ConfigError(
            "a recipe must be a Python file",
            got=f"{path!r}, where there is none",
            fix=f"one of {near}" if near else "--recipe FILE, where it is now",
        )
    name = f"metronorm_recipe_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError("a recipe's name must end in .py", got=repr(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass looks itself up there
    sys.path.insert(0, str(file.parent))  # as Python does for a script
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        if error.filename not in (str(file), None):  # of a module that the recipe imports
            raise
        raise ConfigError(
            "a recipe must be a Python file",
            got=f"{error.msg} in {path}" + (f", line {error.lineno}" if error.lineno else ""),
        ) from None
    finally:
        sys.path.remove(str(file.parent))
    config, task = getattr(module, "Config", None), getattr(module, "task", None)
    if not (isinstance(config, type) and issubclass(config, TrainConfig) and callable(task)):
        raise ConfigError(
            "a recipe must define `Config`, a subclass of TrainConfig, and `task(config)`",
            got=f"Config={config!r}, task={task!r} in {path}",
            fix=f"python {path}, if it has a loop of its own",
        )
    _check_config(config, path)
    return Recipe(config, task, _description(module.__doc__, config))


def _description(doc: str | None, config: type[TrainConfig]) -> str:
    """The help of a recipe: what its file says at its top, and which options are its own."""
    said = inspect.cleandoc(doc or "Train the task of a recipe.")
    common = {field.name for field in dataclasses.fields(TrainConfig)}
    types = get_type_hints(config)
    own = [
        f"--{field.name.replace('_', '-')}"
        + (".*" if dataclasses.is_dataclass(types[field.name]) else "")
        for field in dataclasses.fields(config)
        if field.name not in common
    ]
    return f"{said}\n\nThe recipe's own options: {', '.join(own)}." if own else said


def _check_config(config: type[TrainConfig], path: str) -> None:
    """Its fields become options with their defaults: so each must be a field, and have one."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    lost = [name for name in vars(config).get("__annotations__", {}) if name not in fields]
    if lost:
        raise ConfigError(
            "a recipe's Config must be a dataclass",
            got=f"{', '.join(lost)} in {path}, no field",
            fix="@dataclass(frozen=True) above the class",
        )
    empty = [
        name
        for name, field in fields.items()
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    if empty:
        raise ConfigError(
            "every field of a recipe's Config must have a default",
            got=f"none of {', '.join(empty)} in {path}",
            fix=f"{empty[0]}: ... = ...",
        )
