"""Find the columns of the rows, or take them by name, and take from a row what a task needs.

| task | columns |
| --- | --- |
| chat | `messages`; or `prompt` and `completion`; or `instruction`, `output` and perhaps `input` |
| text | `text`; or the same as chat but `messages`: joined without a template |
| classify | `text` and `label` |

A chat may also have `system` and `tools`. Messages have `role` and `content`, or `from` and
`value`. Pairs of texts will be one more line of the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from metronorm.data.refused import RowRefused, shown
from metronorm.errors import ConfigError, DataError
from metronorm.finetune.messages import Message, as_message
from metronorm.text import nearest, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NAMES = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "question"),
    "completion": ("completion", "response", "answer"),
    "instruction": ("instruction",),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "text": ("text", "sentence", "content"),
    "label": ("label", "category", "class", "target"),
    "system": ("system",),
    "tools": ("tools",),
}
"""What a column may be called, by what it is; case does not count."""

_NEEDED = {
    "chat": (("messages",), ("prompt", "completion"), ("instruction", "output")),
    "text": (("text",), ("prompt", "completion"), ("instruction", "output")),
    "classify": (("text", "label"),),
}


class Conversation(NamedTuple):
    """A chat.

    Attributes:
        messages: each with `role` and what the chat template reads of it.
        learned: whether each message is an answer to train on.
        tools: what the assistant may call, as JSON schemas; None: nothing.
    """

    messages: list[Message]
    learned: list[bool]
    tools: list[Any] | None = None


class Document(NamedTuple):
    """A text to train on, after a prompt, which may be empty."""

    prompt: str
    text: str


class LabelledText(NamedTuple):
    """A text and the class that it belongs to."""

    text: str
    label: str


Item = Conversation | Document | LabelledText


def named_columns(named: Iterable[str]) -> dict[str, str]:
    """The names of columns by what they are, of texts such as "prompt=question".

    Raises:
        ConfigError: a text of another form, or something that is no kind of column.
    """
    found = {}
    for text in [named] if isinstance(named, str) else named:
        kind, equals, name = text.partition("=") if isinstance(text, str) else ("", "", "")
        if not equals or not name or kind not in _NAMES:
            near = nearest(kind, _NAMES) if kind else None
            raise ConfigError(
                f"columns must be KIND=NAME, with a kind of {', '.join(_NAMES)}",
                got=repr(text),
                fix=f"{near or 'text'}={name or 'NAME'}",
            )
        found[kind] = name
    return found


def find_columns(
    task: str, names: Sequence[str], named: Mapping[str, str], source: str
) -> dict[str, str]:
    """The columns that a task takes, by what they are.

    Args:
        task: chat, text or classify.
        names: of the columns that are there.
        named: names by what they are, as the user gave them.
        source: the file, for the error.

    Raises:
        DataError: the columns are not there; the message lists those that are.
    """
    there = {name.casefold(): name for name in reversed(names)}
    found = {}
    for kind, known in _NAMES.items():
        if kind in named:
            if named[kind] not in names:
                raise _missing(f"the data must have the column {named[kind]!r}", names, source, "")
            found[kind] = named[kind]
        elif match := next((there[name] for name in known if name in there), None):
            found[kind] = match
    asked = [kinds for kinds in _NEEDED[task] if not named or set(kinds) & named.keys()]
    for kinds in asked or _NEEDED[task]:
        if set(kinds) <= found.keys():
            optional = ("system", "tools") if task == "chat" else ()
            kinds += ("input", *optional) if "instruction" in kinds else optional
            taken = {kind: found[kind] for kind in kinds if kind in found}
            if unused := named.keys() - taken.keys():
                raise DataError(
                    f"the task {task} must take every column that is named",
                    got=f"{', '.join(sorted(unused))} beside {', '.join(taken)}",
                    fix="--columns without it",
                )
            return taken
    ways = ", or ".join(" and ".join(kinds) for kinds in _NEEDED[task])
    example = " ".join(f"{kind}=NAME" for kind in _NEEDED[task][-1 if task == "classify" else 1])
    raise _missing(f"the task {task} must find {ways}", names, source, f"--columns {example}")


def take(task: str, columns: Mapping[str, str], values: Mapping[str, Any]) -> Item:
    """What a task needs of a row.

    Raises:
        RowRefused: the row lacks it.
    """
    if task == "classify":
        return LabelledText(_text(columns["text"], values), _label(columns["label"], values))
    if "messages" in columns:
        return _conversation(columns, values)
    if "text" in columns:
        return Document("", _text(columns["text"], values))
    if "prompt" in columns:
        prompt, answer = (values.get(columns[kind]) for kind in ("prompt", "completion"))
        if task == "chat" and (isinstance(prompt, list) or isinstance(answer, list)):
            return _conversation_of_lists(columns, values)
        prompt = _text(columns["prompt"], values, empty=task == "text")
        return _answered(task, prompt, _answer(columns["completion"], values), columns, values)
    prompt = _text(columns["instruction"], values)
    if more := _optional(columns, "input", values):
        prompt = f"{prompt}\n\n{more}"
    if task == "text":
        prompt += "\n\n"
    return _answered(task, prompt, _answer(columns["output"], values), columns, values)


def _answered(
    task: str, prompt: str, answer: str, columns: Mapping[str, str], values: Mapping[str, Any]
) -> Item:
    if task == "text":
        return Document(prompt, answer)
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return _with_system(messages, [False, True], columns, values)


def _conversation(columns: Mapping[str, str], values: Mapping[str, Any]) -> Conversation:
    messages, learned = [], []
    for message in _list(columns["messages"], values):
        message, weight = as_message(message)
        messages.append(message)
        learned.append(message["role"] == "assistant" and weight != 0)
    return _with_system(messages, learned, columns, values)


def _conversation_of_lists(columns: Mapping[str, str], values: Mapping[str, Any]) -> Conversation:
    """A prompt and a completion that are messages themselves, or one of them a text."""
    messages: list[Message] = []
    learned: list[bool] = []
    for kind, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(values.get(columns[kind]), str):
            part = [{"role": role, "content": values[columns[kind]]}]
        else:
            part = [as_message(each)[0] for each in _list(columns[kind], values)]
        messages += part
        learned += [kind == "completion" and each["role"] == "assistant" for each in part]
    return _with_system(messages, learned, columns, values)


def _with_system(
    messages: list[Message],
    learned: list[bool],
    columns: Mapping[str, str],
    values: Mapping[str, Any],
) -> Conversation:
    if system := _optional(columns, "system", values):
        messages = [{"role": "system", "content": system}, *messages]
        learned = [False, *learned]
    if not any(learned):
        raise RowRefused("no answer to train on", "no message of the assistant counts")
    tools = columns.get("tools")
    if not tools or not values.get(tools):
        return Conversation(messages, learned)
    return Conversation(messages, learned, _list(tools, values))


def _list(column: str, values: Mapping[str, Any]) -> list[Any]:
    """The value of a column that is a list, or a text of JSON, as a CSV has it."""
    value = values.get(column)
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RowRefused(f"{column!r} is no list", str(error)) from None
    if value is None or value == []:
        raise RowRefused(f"nothing in {column!r}")
    if not isinstance(value, list):
        raise RowRefused(f"{column!r} is no list", shown(value))
    return value


def _text(column: str, values: Mapping[str, Any], *, empty: bool = False) -> str:
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip() and not empty):
        raise RowRefused(f"nothing in {column!r}")
    if not isinstance(value, str):
        raise RowRefused(f"{column!r} is no text", shown(value))
    return value


def _answer(column: str, values: Mapping[str, Any]) -> str:
    if not str(values.get(column) or "").strip():
        raise RowRefused("empty answer", f"nothing in {column!r}")
    return _text(column, values)


def _optional(columns: Mapping[str, str], kind: str, values: Mapping[str, Any]) -> str:
    value = values.get(columns[kind]) if kind in columns else None
    return _text(columns[kind], values) if value and str(value).strip() else ""


def _label(column: str, values: Mapping[str, Any]) -> str:
    value = values.get(column)
    if value is None or value != value:  # a NaN is how pandas writes nothing
        raise RowRefused("no label", f"nothing in {column!r}")
    if not isinstance(value, str | int | float):
        raise RowRefused("the label is neither text nor number", shown(value))
    if not (label := str(value).strip()):
        raise RowRefused("no label", f"nothing in {column!r}")
    return label


def _missing(must: str, names: Sequence[str], source: str, fix: str) -> DataError:
    listed = ", ".join(printable(shortened(name, 40)) for name in names[:30])
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    return DataError(
        must,
        got=f"the columns {listed}{more} in {source}",
        fix=fix or "one of these",
    )
