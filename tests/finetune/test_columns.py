"""Columns of rows: found or named, and what is taken from them."""

from __future__ import annotations

from typing import Any

import pytest

from metronorm.data.refused import RowRefused
from metronorm.errors import ConfigError, DataError
from metronorm.finetune.columns import (
    Conversation,
    Document,
    Item,
    LabelledText,
    find_columns,
    named_columns,
    take,
)
from tests.finetune.chats import said


def taken(task: str, values: dict[str, Any], *named: str) -> Item:
    columns = find_columns(task, list(values), named_columns(named), "a.jsonl")
    return take(task, columns, values)


CHAT = Conversation(said("a", "b"), [False, True])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"messages": said("a", "b"), "text": "more"}, ()),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ()),
        ({"messages": '[{"role":"user","content":"a"},{"role":"Assistant","content":"b"}]'}, ()),
        ({"Prompt": "a", "Completion": "b"}, ()),
        ({"question": "a", "answer": "b"}, ()),
        ({"prompt": said("a"), "completion": said("a", "b")[1:]}, ()),
        ({"prompt": "a", "completion": said("a", "b")[1:]}, ()),
        ({"instruction": "a", "input": "", "output": "b"}, ()),
        ({"instruction": "a", "context": None, "response": "b"}, ()),
        ({"q": "a", "a": "b", "messages": 1}, ("prompt=q", "completion=a")),
    ],
)
def test_a_chat_is_taken(values: dict[str, Any], named: tuple[str, ...]) -> None:
    assert taken("chat", values, *named) == CHAT


def test_an_input_follows_its_instruction() -> None:
    values = {"instruction": "add", "input": "1 2", "output": "3"}
    assert taken("chat", values) == Conversation(said("add\n\n1 2", "3"), [False, True])
    assert taken("text", values) == Document("add\n\n1 2\n\n", "3")


def test_a_system_and_tools_go_with_a_chat() -> None:
    values = {"prompt": "a", "completion": "b", "system": "short", "tools": '[{"name": "add"}]'}
    system = {"role": "system", "content": "short"}
    assert taken("chat", values) == Conversation(
        [system, *said("a", "b")], [False, False, True], [{"name": "add"}]
    )


def test_parts_of_text_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    item = taken("chat", {"messages": [{"role": "user", "content": parts}, *said("", "c")[1:]]})
    assert item == Conversation(said("a\nb", "c"), [False, True])


@pytest.mark.parametrize("arguments", ["{torn", "[" * 100_000])
def test_arguments_that_are_no_json_stay_as_they_are(arguments: str) -> None:
    call = {"function": {"name": "add", "arguments": arguments}}
    item = taken("chat", {"messages": [*said("a"), {"role": "assistant", "tool_calls": [call]}]})
    assert isinstance(item, Conversation)
    assert item.messages[1]["tool_calls"] == [call]


def test_only_the_answers_of_a_completion_are_learned() -> None:
    values = {"prompt": said("a", "b", "c"), "completion": said("c", "d")[1:]}
    item = taken("chat", values)
    assert isinstance(item, Conversation)
    assert item.learned == [False, False, False, True]


def test_a_message_may_say_that_it_does_not_count() -> None:
    messages = said("a", "b", "c", "d")
    messages[1]["weight"] = 0
    item = taken("chat", {"messages": messages})
    assert item == Conversation(said("a", "b", "c", "d"), [False, False, False, True])


def test_the_arguments_of_a_call_are_an_object() -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}
    item = taken("chat", {"messages": [*said("a"), message]})
    assert isinstance(item, Conversation)
    assert item.messages[1] == {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"text": "a", "instruction": "b", "output": "c"}, Document("", "a")),
        ({"content": "a"}, Document("", "a")),
        ({"prompt": "a ", "completion": "b"}, Document("a ", "b")),
        ({"prompt": "", "completion": "b"}, Document("", "b")),
    ],
)
def test_a_text_is_taken(values: dict[str, Any], expected: Document) -> None:
    assert taken("text", values) == expected


def test_a_prompt_that_is_named_wins_over_a_text_that_is_there() -> None:
    values = {"text": "a", "q": "b ", "completion": "c"}
    assert taken("text", values, "prompt=q") == Document("b ", "c")


@pytest.mark.parametrize(
    ("label", "expected"), [("x ", "x"), (3, "3"), (True, "True"), (1.5, "1.5")]
)
def test_a_label_is_a_text(label: Any, expected: str) -> None:
    assert taken("classify", {"sentence": "a", "label": label}) == LabelledText("a", expected)


@pytest.mark.parametrize(
    ("task", "values", "reason"),
    [
        ("chat", {"messages": []}, "nothing in 'messages'"),
        ("chat", {"messages": "hello"}, "'messages' is no list"),
        ("chat", {"messages": "[" * 100_000}, "'messages' is no list"),
        ("chat", {"messages": {"role": "user"}}, "'messages' is no list"),
        ("chat", {"messages": ["hello"]}, "a message is no object"),
        ("chat", {"messages": [{"content": "a"}]}, "an unknown role: None"),
        ("chat", {"messages": [{"role": "judge", "content": "a"}]}, "an unknown role: 'judge'"),
        ("chat", {"messages": [{"role": "user", "content": 3}]}, "other content than text"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "other content than text",
        ),
        ("chat", {"messages": said("a")}, "no answer to train on"),
        ("chat", {"prompt": "a", "completion": " "}, "empty answer"),
        ("chat", {"prompt": "a", "completion": None}, "empty answer"),
        ("chat", {"prompt": "", "completion": "b"}, "nothing in 'prompt'"),
        ("chat", {"prompt": 3, "completion": "b"}, "'prompt' is no text"),
        ("text", {"text": " \n"}, "nothing in 'text'"),
        ("text", {"text": None}, "nothing in 'text'"),
        ("text", {"text": ["a"]}, "'text' is no text"),
        ("classify", {"text": "a", "label": " "}, "no label"),
        ("classify", {"text": "a", "label": float("nan")}, "no label"),
        ("classify", {"text": "a", "label": ["x"]}, "neither text nor number"),
    ],
)
def test_a_row_without_what_is_needed_is_refused(
    task: str, values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RowRefused, match=reason):
        taken(task, values)


def test_a_row_without_the_columns_of_others_is_refused() -> None:
    columns = find_columns("text", ["text"], {}, "a.jsonl")
    with pytest.raises(RowRefused, match="nothing in 'text'"):
        take("text", columns, {"other": "a"})


@pytest.mark.parametrize(
    ("task", "names", "named", "message"),
    [
        (
            "chat",
            ["text", "id\x1b"],
            {},
            r"must find messages, or prompt and completion, or instruction and output; got the "
            r"columns text, id\\x1b in a.csv; try: --columns prompt=NAME completion=NAME",
        ),
        ("classify", ["text"], {}, "text and label; .* --columns text=NAME label=NAME"),
        ("chat", ["a"], {"prompt": "b"}, "must have the column 'b'; got the columns a in a.csv"),
        ("chat", ["q", "messages"], {"prompt": "q"}, "must find messages, or prompt and"),
        ("chat", ["messages", "x"], {"label": "x"}, "got label beside messages"),
        ("text", [str(number) for number in range(40)], {}, "28, 29 and 10 more in a.csv"),
    ],
)
def test_missing_columns_are_refused_with_those_that_are_there(
    task: str, names: list[str], named: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find_columns(task, names, named, "a.csv")


@pytest.mark.parametrize(
    ("text", "fix"), [("prompts=q", "prompt=q"), ("q", "text=NAME"), ("prompt=", "prompt=NAME")]
)
def test_a_name_of_another_form_is_refused(text: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"columns must be KIND=NAME.*try: {fix}"):
        named_columns([text])
