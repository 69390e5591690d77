"""Write the reference of the Python names, `docs/reference/PACKAGE.md`, from the docstrings.

    python docs/write_reference.py

Griffe reads the sources and imports nothing: this needs neither torch nor Keras nor a compiler. And
our docstrings are Markdown, which Sphinx's autodoc would take for reStructuredText. Documented are

- what the `__init__` of a package exports,
- what the pages in `docs/` import from other modules,
- the classes of ours that those functions return, and what their docstrings refer to.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
MODULES = ["metronorm.errors"]  # documented as a whole; they are no packages

_IMPORT = re.compile(r"^from (metronorm[\w.]+) import ([\w, ]+)", re.MULTILINE)
_NAME = re.compile(r"(?<![`}])`(metronorm(?:\.\w+)+)`")
_PAGE = re.compile(r"`?\bdocs/([\w-]+)\.md`?")
_DOCTEST = re.compile(r"(?:^>>> .*\n?(?:^(?!>>>)\S.*\n?)*)+", re.MULTILINE)
_FIELDS = {"parameters": "param", "attributes": "ivar", "raises": "raises"}
_LONGEST_VALUE = 80


def pages() -> dict[str, str]:
    """The pages, by the name of the package."""
    reference = Reference(
        griffe.load(
            "metronorm",
            search_paths=[str(ROOT / "src")],
            docstring_parser="google",
            allow_inspection=False,
        )
    )
    packages = {".".join(module.split(".")[:2]) for module in reference.modules}
    return {package: reference.page(package) for package in sorted(packages - {"metronorm"})}


class Reference:
    """The objects that are documented, and the place where each is."""

    def __init__(self, package: griffe.Module) -> None:
        self._package = package
        # the documented names of each module, and the place of each object by its canonical path
        self.modules: dict[str, list[str]] = defaultdict(list)
        self._places: dict[str, str] = {}
        for module in _packages(package):
            for name in module.exports or ():
                self._add(module.path, str(name))
        for path in MODULES:
            for name, member in self._object(path).members.items():
                if not member.is_alias and not name.startswith("_"):
                    self._add(path, name)
        for path, name in _imported_by_pages():
            self._add(path, name)
        for path in list(self._places):  # grows, but what was added last is followed no further
            self._add_what_it_names(self._object(path))

    def _object(self, path: str) -> griffe.Object:
        found = self._package[path.removeprefix("metronorm.")] if "." in path else self._package
        if found.is_module and found.name in (found.parent.exports or () if found.parent else ()):
            found = found[found.name]  # a function with the name of its module, such as layer_norm
        return found.final_target if found.is_alias else found

    def _add(self, module: str, name: str) -> None:
        member = self._object(f"{module}.{name}")
        if member.canonical_path not in self._places and not member.is_module:
            self._places[member.canonical_path] = f"{module}.{name}"
            self.modules[module].append(name)
            self.modules[".".join(module.split(".")[:2])]  # has a page

    def _add_what_it_names(self, member: griffe.Object) -> None:
        """Add the classes that it returns, and what its docstring refers to, in their modules."""
        methods = [each for each in member.all_members.values() if not each.name.startswith("_")]
        functions = [each for each in (member, *methods) if each.is_function]
        named = [path for each in functions for path in _names(each.returns)]
        if member.docstring:
            named += _NAME.findall(member.docstring.value)
        for path in named:
            try:
                found = self._object(path) if path.startswith("metronorm.") else None
            except KeyError:  # of another package, or no name but a path
                continue
            if (
                found is not None
                and (found.is_class or found.is_function)
                and not (found.name.startswith("_") or found.parent.is_class)
            ):
                self._add(found.module.path, found.name)

    def page(self, package: str) -> str:
        """The page of a package with all that is documented in it, as Markdown."""
        inside = [each for each in sorted(self.modules) if f"{each}.".startswith(f"{package}.")]
        sections = (self._section(each, "#" if each == package else "##") for each in inside)
        return _NAME.sub(self._linked, "\n\n".join(sections)) + "\n"

    def _linked(self, found: re.Match[str]) -> str:
        """A name in a docstring, as a link to where it is documented."""
        try:
            place = self._places[self._object(found[1]).canonical_path]
        except KeyError:
            return found[0]
        return f"{{py:obj}}`{found[1]} <{place}>`"

    def _section(self, module: str, level: str) -> str:
        whole = self._object(module)
        parts = [f"{level} {module}"]
        if whole.docstring:
            parts.append(_text(whole.docstring.value))
        parts.append(f"```{{py:currentmodule}} {module}\n```")
        parts += [
            self._entry(self._object(f"{module}.{name}"), name, fence=6)
            for name in sorted(self.modules[module], key=str.lower)
        ]
        exports = whole.exports or () if whole.is_init_module else ()
        elsewhere = {str(name) for name in exports} - {*self.modules[module]}
        for name in sorted(elsewhere):
            place = self._places[self._object(f"{module}.{name}").canonical_path]
            parts.append(f"`{name}` is {{py:obj}}`{place}`.")
        return "\n\n".join(parts)

    def _entry(self, member: griffe.Object, name: str, *, fence: int) -> str:
        """The directive of an object. Its members are inside, with a shorter fence."""
        lines, options = [], ""
        if member.is_class:
            kind = "exception" if _is_exception(member) else "class"
            signature = f"{name}{self._signature(member.parameters)}"
            bases = [place for base in member.bases for place in self._public(base)]
            if bases:
                lines.append("Bases: " + ", ".join(f"{{py:obj}}`~{base}`" for base in bases))
        elif member.is_function:
            kind = "method" if member.parent.is_class else "function"
            signature = f"{name}{self._signature(member.parameters)}"
            if member.returns is not None:
                signature += f" -> {self._annotation(member.returns)}"
            for label in ("classmethod", "staticmethod", "async"):
                options += f":{label}:\n" if label in member.labels else ""
        else:
            is_property = "property" in member.labels
            kind = "property" if is_property else "attribute" if member.parent.is_class else "data"
            signature = name
            if member.annotation is not None:
                options += f":type: {self._annotation(member.annotation)}\n"
            value = None if is_property else member.value
            if value is not None and len(str(value)) <= _LONGEST_VALUE:
                options += f":value: {value}\n"
        if member.parent.is_class:
            options += ":no-contents-entry:\n"
        lines += self._docstring(member)
        if member.is_class:
            lines += [
                self._entry(each, each.name, fence=fence - 1) for each in self._members(member)
            ]
        marks = "`" * fence
        body = "\n\n".join(lines)
        return f"{marks}{{py:{kind}}} {signature}\n{options}\n{body}\n{marks}"

    def _members(self, member: griffe.Class) -> Iterator[griffe.Object]:
        """The public members of a class; those of its bases too, if the bases are not public."""
        for each in member.all_members.values():
            target = each.final_target if each.is_alias else each
            inherited = target.parent is not member
            if each.name.startswith("_") or target.is_class or target.is_module:
                continue
            if inherited and (not target.docstring or target.parent.canonical_path in self._places):
                continue
            if target.docstring or "instance-attribute" not in target.labels:
                yield target

    def _signature(self, parameters: Iterable[griffe.Parameter]) -> str:
        shown = []
        star = False
        for each in parameters:
            if each.name == "self" or each.name == "cls":
                continue
            kind = each.kind.value
            if kind == "keyword-only" and not star:
                shown.append("*")
                star = True
            star = star or kind == "variadic positional"
            mark = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
            text = mark + each.name
            if each.annotation is not None:
                text += f": {self._annotation(each.annotation)}"
            if each.default is not None and not mark:
                text += f" = {self._default(each.default)}"
            shown.append(text)
        return f"({', '.join(shown)})"

    def _default(self, default: str | griffe.Expr) -> str:
        """A default; of a constant its value, if that is short."""
        if isinstance(default, griffe.ExprName) and default.canonical_path.startswith("metronorm."):
            constant = self._object(default.canonical_path)
            if constant.is_attribute and len(str(constant.value)) <= _LONGEST_VALUE:
                return str(constant.value)
        return str(default)

    def _annotation(self, annotation: str | griffe.Expr) -> str:
        """A type; our own names with the place where each is documented, or what it stands for."""
        if isinstance(annotation, str):
            return annotation
        return "".join(
            self._type_name(each) if isinstance(each, griffe.ExprName) else str(each)
            for each in annotation.iterate(flat=True)
        )

    def _type_name(self, name: griffe.ExprName) -> str:
        path = name.canonical_path
        if path in self._places:
            return self._places[path]
        if path.startswith("metronorm.") and path.count(".") > 1:
            try:
                target = self._object(path)
            except KeyError:
                return name.name
            if target.canonical_path in self._places:
                return self._places[target.canonical_path]
            if target.is_attribute and isinstance(target.value, griffe.ExprSubscript):
                return self._annotation(target.value)  # an alias such as Literal["sum", "mean"]
            if target.is_attribute and isinstance(target.value, griffe.ExprCall):  # a TypeVar
                for each in target.value.arguments:
                    if isinstance(each, griffe.ExprKeyword) and each.name == "bound":
                        return self._annotation(each.value).strip("'\"")
        return name.name

    def _public(self, base: str | griffe.Expr) -> Iterator[str]:
        path = base if isinstance(base, str) else base.canonical_path
        if path in self._places:
            yield self._places[path]

    def _docstring(self, member: griffe.Object) -> list[str]:
        if member.docstring is None:
            return []
        shown = []
        for section in member.docstring.parsed:
            kind = section.kind.value
            if kind == "text":
                shown.append(_text(section.value))
            elif kind in _FIELDS:
                name = "annotation" if kind == "raises" else "name"
                shown.append(
                    _fields(
                        (f"{_FIELDS[kind]} {getattr(each, name)}", each.description)
                        for each in section.value
                    )
                )
            elif kind in ("returns", "yields"):
                text = " ".join(each.description for each in section.value)
                shown.append(_fields([(kind, text)]))
            elif kind == "admonition":
                shown.append(f"**{section.title}**\n\n{_text(section.value.contents)}")
            else:
                raise ValueError(f"{member.path}: a docstring with a section {kind!r}")
        return shown


def _packages(module: griffe.Module) -> Iterator[griffe.Module]:
    """The package and all packages in it."""
    yield module
    for each in module.modules.values():
        if not each.is_alias and each.is_init_module:
            yield from _packages(each)


def _imported_by_pages() -> Iterator[tuple[str, str]]:
    for page in sorted(ROOT.glob("docs/*.md")):
        for module, names in _IMPORT.findall(page.read_text(encoding="utf-8")):
            for name in names.split(","):
                yield module, name.strip()


def _names(annotation: str | griffe.Expr | None) -> list[str]:
    if annotation is None or isinstance(annotation, str):
        return []
    return [
        each.canonical_path
        for each in annotation.iterate(flat=True)
        if isinstance(each, griffe.ExprName)
    ]


def _is_exception(member: griffe.Class) -> bool:
    names = [str(base) for base in member.bases] + [base.name for base in member.mro()]
    return any(name.endswith(("Error", "Exception")) for name in names)


def _text(text: str) -> str:
    """A docstring's text: examples become code, and names of our pages links."""
    text = _DOCTEST.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
    return _PAGE.sub(_link, text).strip()


def _link(found: re.Match[str]) -> str:
    page = f"{found[1]}.md"
    return f"[{found[1]}](../{page})" if (ROOT / "docs" / page).exists() else found[0]


def _fields(fields: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f":{name}: " + _text(text).replace("\n", "\n    ") for name, text in fields)


def write(folder: Path, pages: Mapping[str, str]) -> None:
    """Write pages that have changed, and remove those that are no more."""
    folder.mkdir(exist_ok=True)
    for old in {path.stem for path in folder.glob("*.md")} - pages.keys():
        (folder / f"{old}.md").unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER, pages())
