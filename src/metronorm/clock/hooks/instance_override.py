"""Override methods of one object, and of no other object of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def override_on_instance(instance: Any, **methods: Callable[..., Any]) -> Callable[[], None]:
    """Give `instance` these methods; the returned function takes them away again.

    `instance` becomes an object of a subclass of its own class, with the same name. Copies and
    pickles of it are objects of the original class.

    A class swap is the only way for `__iter__`: Python looks special methods up on the class, so an
    attribute of the instance has no effect in `for batch in loader`; a wrapper would be another
    object than the one that the loop iterates; and a change of the class itself would reach every
    other loader of that class.

    Raises:
        TypeError: the class of `instance` cannot be changed, such as that of a list or a generator.
    """
    base: Any = type(instance)

    def reduce(instance: Any, protocol: Any) -> Any:
        reduced = base.__reduce_ex__(instance, protocol)
        if isinstance(reduced, str):
            return reduced
        function, arguments, *state = reduced
        if getattr(function, "__name__", "") == "__newobj__":  # accepts an object's own class only
            function = base.__new__
        return function, tuple(base if each is own else each for each in arguments), *state

    named = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    space = {"__slots__": (), **named, "__reduce_ex__": reduce, **methods}
    own = type(base)(base.__name__, (base,), space)
    set_class = object.__dict__["__class__"].__set__  # `__class__` may be a property of the class
    set_class(instance, own)

    def undo() -> None:
        if type(instance) is own:  # another override on top keeps this class as its base
            set_class(instance, base)

    return undo


def describe_type(instance: object) -> str:
    """The type of an object, in words for an error message."""
    return f"an object of type {type(instance).__name__}"
