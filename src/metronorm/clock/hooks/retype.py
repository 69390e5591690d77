"""Override methods of one object, and of no other of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def retype(thing: Any, **methods: Callable[..., Any]) -> Callable[[], None]:
    """Make `thing` an instance of a subclass of its own, with these methods; the result undoes it.

    The subclass has the name of its base. Copies and pickles of `thing` are of the base.

    Raises:
        TypeError: the class of `thing` cannot be changed, as that of a list or a generator.
    """
    base: Any = type(thing)

    def reduce(thing: Any, protocol: Any) -> Any:
        made = base.__reduce_ex__(thing, protocol)
        if isinstance(made, str):
            return made
        function, arguments, *state = made
        if getattr(function, "__name__", "") == "__newobj__":  # for an object's own class only
            function = base.__new__
        return function, tuple(base if each is own else each for each in arguments), *state

    named = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    space = {"__slots__": (), **named, "__reduce_ex__": reduce, **methods}
    own = type(base)(base.__name__, (base,), space)
    change = object.__dict__["__class__"].__set__  # a class may say that it is another
    change(thing, own)

    def undo() -> None:
        if type(thing) is own:
            change(thing, base)

    return undo


def kind_of(thing: object) -> str:
    """For messages."""
    return f"an object of type {type(thing).__name__}"
