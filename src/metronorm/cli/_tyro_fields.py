"""How tyro makes options of the fields of a dataclass."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

registry = ConstructorRegistry()


@registry.struct_rule
def _fields(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The fields of a dataclass as options: those that it adds to its bases come first.

    tyro's own rule keeps the line breaks that a field's docstring has in the source.
    """
    if not dataclasses.is_dataclass(info.type):
        return None
    types = get_type_hints(info.type, include_extras=True)
    docs = docstrings(info.type)
    fields = []
    for field in own_first(info.type):
        kind, default = types[field.name], _default(field, info.default)
        if default == ():
            kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="(default: nothing)")]
        fields.append(StructFieldSpec(field.name, kind, default, docs.get(field.name)))
    return StructConstructorSpec(info.type, tuple(fields))


def own_first(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass: those that it adds to its bases come first."""
    bases = [base for base in kind.__mro__[1:] if dataclasses.is_dataclass(base)]
    inherited = {field.name for base in bases for field in dataclasses.fields(base)}
    return sorted(dataclasses.fields(kind), key=lambda field: field.name in inherited)


def docstrings(kind: type) -> dict[str, str]:
    """What the source says below each field, also of the classes that `kind` extends."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each):
            with contextlib.suppress(OSError, TypeError):  # a class without a source
                for doc in docstring_parser.parse_from_object(each).params:
                    found[doc.arg_name] = " ".join((doc.description or "").split())
    return found


def _default(field: dataclasses.Field[Any], whole: object) -> object:
    """The default of a field: that of `whole`, if it is an instance, or of the dataclass."""
    if dataclasses.is_dataclass(whole):
        return getattr(whole, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING_NONPROP if field.default is dataclasses.MISSING else field.default
