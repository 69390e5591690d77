"""A training's config as plain values and as a TOML file, and what of it a resume may change."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_type_hints

import msgspec

from metronorm.clock import read_run_info
from metronorm.errors import ConfigError
from metronorm.files import write_atomic
from metronorm.text import nearest
from metronorm.train.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Config = TypeVar("Config", bound=TrainConfig)

CONFIG_FILE = "config.toml"

_log = logging.getLogger("metronorm")


class Change(NamedTuple):
    """An option whose value in the run is not the one asked for."""

    name: str
    before: Any
    after: Any
    rule: str | None

    def __str__(self) -> str:
        return f"{self.name}: {self.before!r} in the run, {self.after!r} asked for"


def config_to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    # asdict, because msgspec leaves fields out that have the class's own default
    plain = dataclasses.asdict(config)
    return msgspec.json.decode(msgspec.json.encode(plain, enc_hook=str), type=dict[str, Any])


def config_from_dict(values: Any, kind: type[Config], source: Path | None = None) -> Config:
    """The config that `config_to_dict` made these values of, or that a file holds.

    Args:
        values: of the options by name; what is not named has its default.
        kind: the class of the config.
        source: the file that the values come from; every name in it must be an option. None: they
            come from a run, which may have names that only a later version knows.

    Raises:
        ConfigError: values of no such config; with the nearest name where one is unknown.
    """
    what = str(source) if source else "the run's config"
    if source:
        _check_names(values, kind, source)
    elif not isinstance(values, dict) or "optimizer" not in values:
        raise ConfigError(
            "the run's config must be a training's",
            got="a run of another kind",
            fix="metronorm train goes on with what metronorm train has begun",
        )
    try:
        return msgspec.convert(values, kind, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise _wrong_value(what, values, kind, error) from None


def changes(old: dict[str, Any], new: TrainConfig) -> list[Change]:
    """What differs between a run's config, as plain values, and the one asked for.

    A field that the run does not have, as an older version did not know it, counts as its default.
    One that only the run has, as a recipe has it no more, is a difference.

    Raises:
        ConfigError: the run's values are no config of this kind.
    """
    before = config_to_dict(config_from_dict(old, type(new)))
    gone = [Change(name, old[name], None, None) for name in sorted(old.keys() - before.keys())]
    return [*gone, *_changes(before, config_to_dict(new), type(new))]


def check_resumable(
    config: TrainConfig, old: dict[str, Any], *, proven: bool = False, branch: bool = False
) -> None:
    """Refuse to resume with a config that would not go on with the same training.

    Args:
        config: asked for.
        old: the run's, as `config_to_dict` made it.
        proven: the data's hash is known, so it is no difference where the data lies.
        branch: the run goes on from a chosen checkpoint, with another learning rate perhaps.

    Raises:
        ConfigError: with every difference.
    """
    found = refused_changes(config, old, proven=proven, branch=branch)
    if not found:
        return
    fix = "leave these options out, or start a new run"
    if all(change.rule == "branch" for change in found):
        fix = "leave these options out, or branch from a checkpoint: --from-tick N"
    if all(change.rule == "window" for change in found):
        fix = _same_window(config, _examples_per_tick(old), [change.name for change in found])
    raise ConfigError("a resumed run keeps its config", got="; ".join(map(str, found)), fix=fix)


def refused_changes(
    config: TrainConfig, old: dict[str, Any], *, proven: bool, branch: bool
) -> list[Change]:
    """The differences that a resume does not allow; for the arguments see `check_resumable`."""
    allowed = {"free", "longer"}
    allowed |= {"data"} if proven else set()
    allowed |= {"branch"} if branch else set()
    if _examples_per_tick(old) == config.batch_size * config.micro_batches:
        allowed.add("window")
    return [change for change in changes(old, config) if change.rule not in allowed]


def _examples_per_tick(old: dict[str, Any]) -> int:
    product: int = old.get("batch_size", 1) * old.get("micro_batches", 1)
    return product


def _same_window(config: TrainConfig, examples: int, changed: list[str]) -> str:
    """What to do about another size of beat that changes the examples of a tick."""
    chosen, other = "batch_size", "micro_batches"
    if changed == [other]:
        chosen, other = other, chosen
    fix = f"{chosen} * {other} must stay {examples}"
    size = getattr(config, chosen)
    return fix if examples % size else f"{fix}: with {chosen}={size}, {other}={examples // size}"


def write_toml(path: Path, config: TrainConfig) -> None:
    """Write the config as a file that `metronorm train --config` starts the same run from.

    Raises:
        OSError: the file cannot be written.
    """
    import tomli_w

    values = _without_none(config_to_dict(config))
    write_atomic(path, tomli_w.dumps(values).encode())


def read_toml(path: Path) -> dict[str, Any]:
    """The options in a file, by name.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows begins with a mark
    except OSError as error:
        raise ConfigError(
            "a config must be a readable file", got=f"{path}: {error.strerror or error}"
        ) from None
    except (RecursionError, ValueError) as error:  # also of digits that Python does not convert
        raise ConfigError("a config must be TOML", got=f"{path}: {error}") from None


def run_config(directory: Path) -> dict[str, Any]:
    """The config that a run has now: of its `config.toml`, or of its newest checkpoint.

    Without both it is the one that the run was begun with.

    Raises:
        RunError: there is no run.
        ConfigError: `config.toml` is damaged, and no checkpoint has the config.
    """
    begun = read_run_info(directory).config
    path = directory / CONFIG_FILE
    try:
        return read_toml(path)
    except ConfigError as error:
        from metronorm.checkpoints.folder import newest_state  # loads torch

        kept = newest_state(directory / "checkpoints").get("config")
        if isinstance(kept, dict):
            _warn(f"{error}; the config of the newest checkpoint is taken")
            return kept
        if not path.exists():  # a run of an older version, or one that was killed at its start
            return begun
        fix = f"remove the file: the run then has the config it was begun with, in {directory}"
        raise ConfigError(error.must, got=error.got, fix=f"{fix}/run.json") from None


@functools.cache
def _warn(text: str) -> None:
    """Once, although the command line and the loop both read a run's config."""
    _log.warning(text)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a table of options",
}


def _wrong_value(what: str, values: Any, kind: Any, error: msgspec.ValidationError) -> ConfigError:
    """The error for a value in `values`, which are `what`: which option, and what must hold."""
    cause = error.__cause__
    if isinstance(cause, ConfigError):  # of the config's own checks
        return ConfigError(f"in {what}, {cause.must}", got=cause.got, fix=cause.fix)
    message, _, place = str(error).partition(" - at `$.")
    name, value = place.rstrip("`"), values
    for part in re.findall(r"[^.\[\]]+", name):
        value = value[int(part) if isinstance(value, list) else part]
        kind = get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    expected = re.match(r"Expected `(\w+)[^`]*`( of length \d+)?", message)
    if choices := [each for each in get_args(kind) if isinstance(each, str)]:
        must = f"one of {', '.join(choices)}"
    elif expected and expected[1] in _KINDS:
        must = _KINDS[expected[1]] + (expected[2] or "")
    else:
        must = f"a value that it can have ({message})"
    return ConfigError(f"in {what}, {name or 'all'} must be {must}", got=repr(value))


def _check_names(values: dict[str, Any], kind: type, path: Path, prefix: str = "") -> None:
    known = {field.name: field for field in dataclasses.fields(kind)}
    types = get_type_hints(kind)
    for name, value in values.items():
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(
                f"{path} must hold options that there are",
                got=f"{prefix}{name}",
                fix=f"{prefix}{near}" if near else "metronorm train --help",
            )
        if dataclasses.is_dataclass(types[name]) and isinstance(value, dict):
            _check_names(value, types[name], path, f"{prefix}{name}.")


def _changes(
    old: dict[str, Any], new: dict[str, Any], kind: Any, rule: Any = None, prefix: str = ""
) -> Iterator[Change]:
    """Walk two configs side by side; `rule` is what their own field says, a dict or one for all."""
    types = get_type_hints(kind) if kind else {}
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        own = rule.get(name) if isinstance(rule, dict) else rule
        if own is None and kind is not None:
            own = _rule_of(kind, name)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = types.get(name)
            inner = inner if dataclasses.is_dataclass(inner) else None
            yield from _changes(before, after, inner, own, f"{prefix}{name}.")
        elif before != after:
            yield Change(f"{prefix}{name}", before, after, own)


def _rule_of(kind: type, name: str) -> Any:
    """What a field says of resuming; one that is overridden keeps what it said before."""
    for each in kind.__mro__:
        if dataclasses.is_dataclass(each):
            for field in dataclasses.fields(each):
                if field.name == name and "on_resume" in field.metadata:
                    return field.metadata["on_resume"]
    return None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(each) for name, each in value.items() if each is not None}
    return value
