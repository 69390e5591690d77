"""A space: which options of a training to search, and over which values.

A point of a space is a value for every dimension whose condition holds. `space_file.py` reads a
space.
"""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import msgspec

from metronorm.errors import ConfigError
from metronorm.scalars import is_integer, is_number
from metronorm.text import nearest
from metronorm.tune.options import Config, options_of, value_of, with_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TRIES = 64  # points at random, to find out whether a value can be had at all

Point = dict[str, Any]


class Dimension(msgspec.Struct, frozen=True):
    """The values of one option, or of a group of options.

    Attributes:
        name: of the option, or of the group.
        kind: log, uniform, integers or choices.
        values: the two ends, or the choices.
        step: between two integers.
        when: by the name of another dimension, the values for which this one is searched.
    """

    name: str
    kind: str
    values: list[Any]
    step: int = 1
    when: dict[str, list[Any]] = {}

    @property
    def is_group(self) -> bool:
        """Whether its choices are values of several options."""
        return self.kind == "choices" and all(isinstance(each, dict) for each in self.values)

    def has(self, value: Any) -> bool:
        """Whether a value is one of this dimension."""
        if self.kind == "choices":
            return value in self.values
        low, high = self.values
        if not is_number(value) or not low <= value <= high:
            return False
        return self.kind != "integers" or (is_integer(value) and (value - low) % self.step == 0)


class Space:
    """What is searched.

    Args:
        dimensions: in any order.
        source: what they came from, for errors.

    Attributes:
        dimensions: each behind those that its condition names.

    Raises:
        ConfigError: conditions that go in a circle, or name no dimension.
    """

    def __init__(self, dimensions: Iterable[Dimension], source: str = "the space") -> None:
        self.source = source
        left = {each.name: each for each in dimensions}
        if not left:
            raise ConfigError(f"{source} must have an option to search", got="none")
        for each in left.values():
            self._check_condition(each, left)
        self.dimensions: list[Dimension] = []
        while left:
            free = [one for one in left.values() if not one.when.keys() & left.keys()]
            if not free:
                raise ConfigError(
                    f"{source} must have conditions that begin somewhere",
                    got=f"a circle of {', '.join(left)}",
                )
            self.dimensions += free
            for one in free:
                del left[one.name]

    def _check_condition(self, each: Dimension, known: Mapping[str, Dimension]) -> None:
        for name, values in each.when.items():
            other = known.get(name)
            if other is None or other.kind != "choices" or other.is_group:
                raise ConfigError(
                    f"in {self.source}, `when` of {each.name} must name an option that has choices",
                    got=repr(name),
                    fix=nearest(name, [one for one in known if known[one].kind == "choices"]),
                )
            if not values or any(value not in other.values for value in values):
                raise ConfigError(
                    f"in {self.source}, `when` of {each.name} must have choices of {name}",
                    got=json.dumps(values),
                    fix=json.dumps(other.values),
                )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def as_dict(self) -> dict[str, Any]:
        """The space as plain values, which `space_from` reads."""
        found: dict[str, Any] = {}
        for each in self.dimensions:
            found[each.name] = {each.kind: each.values}
            found[each.name] |= {"step": each.step} if each.step != 1 else {}
            found[each.name] |= {"when": each.when} if each.when else {}
        return found

    def active(self, point: Point, each: Dimension) -> bool:
        """Whether a dimension's condition holds in a point."""
        return all(point.get(name) in values for name, values in each.when.items())

    def options(self, point: Point) -> dict[str, Any]:
        """The values of options that a point stands for."""
        found: dict[str, Any] = {}
        for each in self.dimensions:
            if each.name in point:
                value = point[each.name]
                found |= value if each.is_group else {each.name: value}
        return found

    def names(self) -> list[str]:
        """The options that the space decides."""
        found: dict[str, None] = {}
        for each in self.dimensions:
            found |= dict.fromkeys(
                [name for choice in each.values for name in choice]
                if each.is_group
                else [each.name]
            )
        return list(found)

    def point_of(self, config: Config) -> Point | None:
        """The point that a config is; None: it lies outside."""
        options, point = options_of(type(config)), Point()
        for each in self.dimensions:
            if not self.active(point, each):
                continue
            if each.is_group:
                value = next(
                    (
                        choice
                        for choice in each.values
                        if all(_same(value_of(config, options[n]), v) for n, v in choice.items())
                    ),
                    None,
                )
            else:
                value = value_of(config, options[each.name])
                value = list(value) if isinstance(value, tuple) else value
            if value is None or not each.has(value):
                return None
            point[each.name] = value
        return point

    def drawn(self, chance: random.Random) -> Point:
        """A point at random."""
        point: Point = {}
        for each in self.dimensions:
            if not self.active(point, each):
                continue
            if each.kind == "choices":
                point[each.name] = chance.choice(each.values)
            elif each.kind == "integers":
                low, high = each.values
                point[each.name] = chance.randrange(low, high + 1, each.step)
            elif each.kind == "log":
                low, high = map(math.log, each.values)
                point[each.name] = math.exp(chance.uniform(low, high))
            else:
                point[each.name] = chance.uniform(*each.values)
        return point

    def check(self, config: Config) -> None:
        """Look whether a config can have the values of this space.

        A value that does not go with the rest of the config may go with other points: it is
        refused only if it goes with none of many that are drawn.

        Raises:
            ConfigError: a value that no point can have; with the reason.
        """
        chance = random.Random(0)
        points = [self.drawn(chance) for _ in range(_TRIES)]
        for each in self.dimensions:
            for value in each.values:
                point = self.point_of(config) or {}
                try:
                    with_values(config, self.options({**point, each.name: value}))
                    continue
                except ConfigError as error:
                    reason = error
                if not any(self._goes(config, {**one, each.name: value}) for one in points):
                    raise ConfigError(
                        f"{self.source} must have values that the config can have",
                        got=f"{each.name}={value!r}: {reason.must}"
                        + (f", got {reason.got}" if reason.got else ""),
                        fix=reason.fix,
                    )

    def _goes(self, config: Config, point: Point) -> bool:
        kept: Point = {}
        for each in self.dimensions:
            if each.name in point and self.active(kept, each):
                kept[each.name] = point[each.name]
        try:
            with_values(config, self.options(kept))
        except ConfigError:
            return False
        return True


def _same(one: Any, other: Any) -> bool:
    return bool((list(one) if isinstance(one, tuple) else one) == other)
