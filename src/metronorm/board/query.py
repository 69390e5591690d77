"""The language of the search for runs: parsed into conditions, never evaluated as code.

    loss<1.5 state:killed has:nan config.optimizer.name=ticks
    (tag:good or starred) -name:"try *" min.validation_loss<=0.4

| written | means |
| --- | --- |
| `word`, `"two words"` | the text is in the name, the folder, a tag or the note of the run |
| `NAME:text` | the text of NAME contains this; with `*`, it is a pattern for the whole |
| `NAME=value`, `NAME!=value` | it is equal, as a number if both are numbers; text in any case |
| `NAME<1`, `<=`, `>`, `>=` | it is a number, and is smaller, ... |
| `has:NAME` | the run has it: a metric's value, an option, `nan`, `inf`, `note`, `tag` |
| `starred`, `hidden`, `damaged`, `stalled` | the run is |
| `a b`, `a and b`, `a or b`, `-a`, `not a`, `( )` | as usual; `and` binds before `or` |

NAME is `name`, `folder`, `state`, `tag`, `note`, `id`, `tick`, `total`, `age` (in seconds),
`config.OPTION`, or a metric: `loss` is its last value, `min.loss`, `max.loss` and `best.loss` are
of the whole run. A name with other signs is put in quotes: `"grad norm/layer 1"<2`.
"""

from __future__ import annotations

import fnmatch
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from metronorm.errors import ConfigError
from metronorm.scalars import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWN_NAMES = ("name", "folder", "state", "tag", "note", "id", "tick", "total", "age")
FLAGS = ("starred", "hidden", "damaged", "stalled")
NOT_FINITE = ("has:nan", "has:inf")
OF_VALUES = ("last", "min", "max", "best")
_MOST_CHARACTERS, _MOST_DEPTH = 4000, 50

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*")
      | (?P<operator><=|>=|!=|[<>=:])
      | (?P<bracket>[()])
      | (?P<minus>-(?=[^\s<>=:)]))
      | (?P<word>[^\s<>=:()!"]+)
      | (?P<other>\S)
    )""",
    re.VERBOSE,
)

Operator = Literal["<", "<=", ">", ">=", "=", "!=", ":"]


class QueryError(ConfigError):
    """A query that cannot be parsed; `at` is the place of the mistake, from 0."""

    def __init__(self, must: str, *, at: int, got: str | None = None) -> None:
        super().__init__(must, got=got)
        self.at = at


@dataclass(frozen=True)
class Text:
    """The text is somewhere in what describes a run."""

    text: str


@dataclass(frozen=True)
class Flag:
    """One of `FLAGS`."""

    name: str


@dataclass(frozen=True)
class Compare:
    """A name compared with a value; the name is `has` for `has:NAME`."""

    name: str
    operator: Operator
    value: str


@dataclass(frozen=True)
class Not:
    """The opposite of a condition."""

    of: Query


@dataclass(frozen=True)
class AllOf:
    """Every condition holds; without any, it always holds."""

    of: tuple[Query, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one condition holds."""

    of: tuple[Query, ...]


Query = Text | Flag | Compare | Not | AllOf | AnyOf


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str) -> Query:
    """A query as a tree.

    Raises:
        QueryError: with the place of the mistake.
    """
    if len(text) > _MOST_CHARACTERS:
        raise QueryError("a search must be short", at=_MOST_CHARACTERS, got=f"{len(text)} letters")
    parser = _Parser([*_tokens(text)], len(text))
    found = parser.any_of(0) if parser.tokens else AllOf(())
    if parser.tokens:
        raise QueryError("a bracket must be opened before it is closed", at=parser.tokens[0].at)
    return found


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while match := _TOKEN.match(text, at):
        kind = match.lastgroup or ""
        begin, part = match.start(kind), match[kind]
        if kind == "other":
            must = (
                "a quote must be closed" if part == '"' else "an operator must be < <= > >= = != :"
            )
            raise QueryError(must, at=begin, got=repr(part))
        if kind == "quoted":
            part = re.sub(r"\\(.)", r"\1", part[1:-1])
        yield _Token(kind, part, begin)
        at = match.end()


class _Parser:
    """Recursive descent over tokens; each method takes what it has understood from their front."""

    def __init__(self, tokens: list[_Token], length: int) -> None:
        self.tokens, self._length = tokens, length

    def any_of(self, depth: int) -> Query:
        if depth > _MOST_DEPTH:
            raise QueryError(f"brackets must be at most {_MOST_DEPTH} deep", at=self._at())
        found = [self._all_of(depth)]
        while self._take_word("or"):
            found.append(self._all_of(depth))
        return found[0] if len(found) == 1 else AnyOf(tuple(found))

    def _all_of(self, depth: int) -> Query:
        found = [self._one(depth)]
        while self.tokens and not self._next_is("or", ")"):
            self._take_word("and")
            found.append(self._one(depth))
        return found[0] if len(found) == 1 else AllOf(tuple(found))

    def _one(self, depth: int) -> Query:
        if not self.tokens:
            raise QueryError("a condition must follow", at=self._length)
        token = self.tokens.pop(0)
        if token.kind == "minus" or self._is_word(token, "not"):
            if depth > _MOST_DEPTH:
                raise QueryError(f"conditions must be at most {_MOST_DEPTH} deep", at=token.at)
            return Not(self._one(depth + 1))
        if token.text == "(" and token.kind == "bracket":
            found = self.any_of(depth + 1)
            if not self._next_is(")"):
                raise QueryError("a bracket must be closed", at=self._at(), got="the end")
            self.tokens.pop(0)
            return found
        if token.kind not in ("word", "quoted"):
            raise QueryError("a name or a text must be here", at=token.at, got=repr(token.text))
        if self.tokens and self.tokens[0].kind == "operator":
            return self._comparison(token)
        if token.kind == "word" and token.text.lower() in FLAGS:
            return Flag(token.text.lower())
        return Text(token.text)

    def _comparison(self, name: _Token) -> Compare:
        operator = self.tokens.pop(0)
        value = ""
        if self.tokens and self.tokens[0].kind == "minus":  # a number below zero
            value = self.tokens.pop(0).text
        if not self.tokens or self.tokens[0].kind not in ("word", "quoted"):
            raise QueryError(f"a value must follow {operator.text}", at=self._at())
        token = self.tokens.pop(0)
        value += token.text
        if operator.text in ("<", "<=", ">", ">=") and _number(value) is None:
            raise QueryError(f"a number must follow {operator.text}", at=token.at, got=repr(value))
        sign: Any = operator.text
        return Compare(name.text, sign, value)

    def _next_is(self, *texts: str) -> bool:
        return bool(self.tokens) and any(
            self._is_word(self.tokens[0], text)
            or (self.tokens[0].kind == "bracket" and self.tokens[0].text == text)
            for text in texts
        )

    def _take_word(self, text: str) -> bool:
        found = bool(self.tokens) and self._is_word(self.tokens[0], text)
        if found:
            self.tokens.pop(0)
        return found

    def _is_word(self, token: _Token, text: str) -> bool:
        return token.kind == "word" and token.text.lower() == text

    def _at(self) -> int:
        return self.tokens[0].at if self.tokens else self._length


def metric_of(name: str) -> tuple[str, str] | None:
    """What a name means as a metric, such as ("min", "loss"); None if it is no metric."""
    if name in OWN_NAMES or name.startswith("config."):
        return None
    of, dot, rest = name.partition(".")
    return (of, rest) if dot and of in OF_VALUES and rest else ("last", name)


def names_of(query: Query) -> set[str]:
    """The names that a query compares; `has:NAME` as it is written."""
    match query:
        case Not(of):
            return names_of(of)
        case AllOf(of) | AnyOf(of):
            return set().union(*map(names_of, of))
        case Compare("has", _, value):
            return {f"has:{value}"}
        case Compare(name, _, _):
            return {name}
    return set()


def metrics_of(query: Query) -> set[str]:
    """The metrics whose values a query needs."""
    names = {name.removeprefix("has:") for name in names_of(query) - {*NOT_FINITE}}
    return {found[1] for name in names if (found := metric_of(name))}


def matches(query: Query, look_up: Callable[[str], list[Any]]) -> bool:
    """Whether a run fulfils a query.

    Args:
        query: from `parse`.
        look_up: the values that a name has in the run; none, one, or several (tags). `""` gives the
            texts that a plain word is searched in, a flag `[True]` or `[False]`.
    """
    match query:
        case Not(of):
            return not matches(of, look_up)
        case AllOf(of):
            return all(matches(each, look_up) for each in of)
        case AnyOf(of):
            return any(matches(each, look_up) for each in of)
        case Flag(name):
            return True in look_up(name)
        case Text(text):
            return any(_contains(str(value), text) for value in look_up(""))
        case Compare("has", _, value):
            return any(found not in (None, "") for found in look_up(f"has:{value}"))
        case Compare(name, "!=", value):
            found = look_up(name)
            return bool(found) and not any(_equal(each, value) for each in found)
        case Compare(name, operator, value):
            return any(_holds(each, operator, value) for each in look_up(name))
    raise AssertionError(query)


def _holds(found: Any, operator: str, value: str) -> bool:
    if operator == "=":
        return _equal(found, value)
    if operator == ":":
        return found is not None and _contains(_text(found), value)
    number, limit = _number(found), _number(value)
    if number is None or limit is None:
        return False
    return {
        "<": number < limit,
        "<=": number <= limit,
        ">": number > limit,
        ">=": number >= limit,
    }[operator]


def _equal(found: Any, value: str) -> bool:
    if found is None:
        return False
    number, wanted = _number(found), _number(value)
    if number is not None and wanted is not None:
        return number == wanted or (math.isnan(number) and math.isnan(wanted))
    return _matches_pattern(_text(found), value)


def _contains(text: str, part: str) -> bool:
    if "*" in part:
        return _matches_pattern(text, part)
    return part.lower() in text.lower()


def _matches_pattern(text: str, pattern: str) -> bool:
    """Whether a text is as a pattern says, in any case; only `*` is special."""
    escaped = pattern.lower().replace("[", "[[]").replace("?", "[?]")
    return fnmatch.fnmatchcase(text.lower(), escaped)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: Any) -> float | None:
    if is_number(value):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if not isinstance(value, str):
        return None
    try:
        return float(value.replace("_", "x"))  # Python would read 1_000
    except ValueError:
        return None
