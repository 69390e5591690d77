"""What an examination found, as text to paste into a bug report and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from metronorm.doctor.packages import Extra
from metronorm.text import printable, size

if TYPE_CHECKING:
    from collections.abc import Callable


class NotRead(str):
    """Why a value is not known, in place of the value."""


@dataclass(frozen=True)
class Problem:
    """Something that does not work as it should.

    Attributes:
        what: what must hold, and what was found instead.
        fix: what to try.
        is_broken: whether it is something that is needed.
    """

    what: str
    fix: str
    is_broken: bool = False


@dataclass(frozen=True)
class Report:
    """What an examination found.

    Attributes:
        sections: by the name of a section, its values by their names. A name ends with its unit.
        problems: the broken ones come first.
    """

    sections: dict[str, dict[str, Any]]
    problems: tuple[Problem, ...]

    @property
    def is_broken(self) -> bool:
        """Whether something that is needed does not work."""
        return any(problem.is_broken for problem in self.problems)

    def text(self) -> str:
        """A line for each value, by section; then the problems."""
        lines = []
        for title, section in self.sections.items():
            lines.append(title)
            width = max(map(len, section), default=0)
            lines += [
                f"  {_label(name):<{width}}  {_in_words(name, value)}"
                for name, value in section.items()
            ]
            lines.append("")
        lines.append("problems" if self.problems else "no problems")
        for problem in self.problems:
            kind = "broken" if problem.is_broken else "notice"
            lines.append(f"  {kind}  {printable(problem.what)}; try: {printable(problem.fix)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON. What could not be read is a mapping with `not_read`, the reason."""
        sections = {
            title: {name: _for_json(value) for name, value in section.items()}
            for title, section in self.sections.items()
        }
        problems = [
            {"what": each.what, "try": each.fix, "broken": each.is_broken} for each in self.problems
        ]
        return {**sections, "problems": problems, "broken": self.is_broken}


def read(probe: Callable[..., Any], *arguments: Any) -> Any:
    """What a probe returns, or why it failed: an examination goes on with the next probe."""
    try:
        return probe(*arguments)
    # a system that is not in order fails in ways of its own, and all of them belong in the report
    except Exception as error:
        return NotRead(f"{type(error).__name__}: {error}")


def _label(name: str) -> str:
    if name.isupper():  # a variable of the environment
        return name
    return name.removesuffix("_bytes").replace("_", " ")


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, NotRead):
        return f"could not be read: {printable(value)}"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes"):
        return size(value)
    if isinstance(value, list | tuple):
        return ", ".join(_in_words("", each) for each in value) or "none"
    if isinstance(value, dict):
        pairs = (f"{_label(key)} {_in_words(key, each)}" for key, each in value.items())
        return ", ".join(pairs) or "none"
    return printable(str(value))


def _for_json(value: Any) -> Any:
    if isinstance(value, NotRead):
        return {"not_read": str(value)}
    return asdict(value) if isinstance(value, Extra) else value
