"""Renders of conversations: where the answers are, and which conversations are refused."""

from __future__ import annotations

from typing import Any

import pytest

from metronorm.data.refused import RowRefused
from metronorm.errors import DataError
from metronorm.finetune.chat import ChatTemplate, Rendered
from metronorm.finetune.columns import Conversation
from tests.finetune.chats import (
    CHATML,
    INST,
    LLAMA,
    NO_END,
    NO_SYSTEM,
    SHOUTING,
    STRADDLING,
    THINKING,
    TOOLS,
    said,
    tokenizer,
)

NO_END_BUT_BEGIN = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
SYSTEM = {"role": "system", "content": "Say little."}


def rendered(template: str, messages: list[dict[str, Any]], **options: Any) -> list[Rendered]:
    learned = [message["role"] == "assistant" for message in messages]
    tools = options.pop("tools", None)
    return ChatTemplate(tokenizer(template)).render(
        Conversation(messages, learned, tools), **options
    )


def answers(one: Rendered) -> list[str]:
    return [one.text[start:stop] for start, stop in one.answers]


def prompts(one: Rendered) -> list[str]:
    return [one.text[start:stop] for start, stop in one.prompts]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, [" yes \n<|im_end|>", "no<|im_end|>"]),
        (LLAMA, ["yes<|eot|>", "no<|eot|>"]),
        (INST, [" yes<|im_end|>", " no<|im_end|>"]),
        (STRADDLING, [" yes \n<|im_end|>", "no<|im_end|>"]),
    ],
)
def test_answers_are_found_up_to_the_token_that_ends_them(
    template: str, expected: list[str]
) -> None:
    (one,) = rendered(template, said("is it?", " yes \n", "so?", "no"))
    assert answers(one) == expected
    assert prompts(one) == ["is it?", "so?"]


def test_a_default_system_message_is_no_answer_and_cannot_be_cut() -> None:
    (one,) = rendered(CHATML, said("a", "b"))
    assert one.text.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    (own,) = rendered(CHATML, [SYSTEM, *said("a", "b")])
    assert "Be brief" not in own.text
    assert prompts(own) == ["Say little.", "a"]


def test_what_a_prompt_ends_with_is_no_answer() -> None:
    (one,) = rendered(CHATML, said("a", "b", "and then?"))
    assert answers(one) == ["b<|im_end|>"]
    assert prompts(one) == ["a", "and then?"]


def test_an_answer_that_does_not_count_is_a_prompt() -> None:
    messages = said("a", "no", "b", "yes")
    conversation = Conversation(messages, [False, False, False, True])
    (one,) = ChatTemplate(tokenizer()).render(conversation)
    assert answers(one) == ["yes<|im_end|>"]
    assert prompts(one) == ["a", "no", "b"]


def test_a_template_that_rewrites_earlier_turns_needs_each_answer_by_itself() -> None:
    messages = said("a", "<think>hm</think>\n\nyes", "b", "no")
    with pytest.raises(RowRefused, match=r"rewrites earlier turns \(--turns split\): message 2"):
        rendered(THINKING, said("a", "yes", "b", "no"))
    for split in (False, True):
        with pytest.raises(RowRefused, match="changes an answer"):
            rendered(THINKING, messages, split=split)  # what was thought would not be trained
    first, second = rendered(THINKING, said("a", "yes", "b", "no"), split=True)
    assert answers(first) == ["<think>\n\n</think>\n\nyes<|im_end|>"]
    assert answers(second) == ["<think>\n\n</think>\n\nno<|im_end|>"]
    assert prompts(second) == ["a", "yes", "b"]


def test_a_template_may_end_a_conversation_with_a_token_more() -> None:
    (one,) = rendered(
        CHATML + "{% if not add_generation_prompt %}<|end|>{% endif %}", said(*"abcd")
    )
    assert answers(one) == ["b<|im_end|>", "d<|im_end|>\n<|end|>"]


def test_a_template_that_ends_the_last_answer_with_another_token_rewrites_turns() -> None:
    template = CHATML.replace(
        "<|im_end|>\n{% endfor", "{{ ends[loop.last and m.role == 'assistant'] }}\n{% endfor"
    )
    template = "{% set ends = {true: '<|eot|>', false: '<|im_end|>'} %}" + template
    with pytest.raises(RowRefused, match="rewrites earlier turns"):
        rendered(template, said("a", "b", "c", "d"))
    (one,) = rendered(template, said("a", "b"))
    assert answers(one) == ["b<|eot|>"]


def test_one_answer_is_found_in_a_template_that_rewrites_earlier_turns() -> None:
    (one,) = rendered(THINKING, said("a", "yes"))
    assert answers(one) == ["<think>\n\n</think>\n\nyes<|im_end|>"]


def test_tools_are_rendered_and_a_call_is_an_answer() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "1 + 1"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": '{"sum": "2"}'},
        {"role": "assistant", "content": "2"},
    ]
    tool = {"type": "function", "function": {"name": "add"}}
    (one,) = rendered(TOOLS, messages, tools=[tool])
    assert one.text.startswith('<|im_start|>system\n{"type": "function"')
    assert answers(one) == ['<call>add {"a": 1}</call><|im_end|>', "2<|im_end|>"]


def test_a_call_that_the_template_does_not_write_is_refused() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    with pytest.raises(RowRefused, match="changes an answer"):
        rendered(CHATML, [*said("1 + 1"), {"role": "assistant", "tool_calls": [call]}])


@pytest.mark.parametrize(
    ("template", "messages", "reason"),
    [
        (CHATML, said("a", " \n"), "empty answer: message 2"),
        (CHATML, said("a", "b")[1:], "begins with an answer"),
        (CHATML, said("a<|im_end|>", "b"), r"spells a token of the template: <\|im_end\|>"),
        (NO_END, said("a", "b"), "ends an answer with no token"),
        (NO_END_BUT_BEGIN, said("a", "b"), "ends an answer with no token"),
        (SHOUTING, said("a", "b"), "changes an answer"),
        (NO_SYSTEM, [SYSTEM, *said("a", "b")], "leaves out a message: Say little"),
        (INST, [SYSTEM, *said("a", "b")], "refuses it: the roles must alternate"),
        ("{{ messages[9].content }}", said("a", "b"), "refuses it"),
        ("{{ 1 / 0 }}", said("a", "b"), "refuses it: division by zero"),
    ],
)
def test_a_conversation_is_refused_with_the_reason(
    template: str, messages: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(RowRefused, match=reason):
        rendered(template, messages)


def test_a_token_that_the_template_does_not_use_may_be_spelled() -> None:
    (one,) = rendered(CHATML, said("what is <|head|>?", "a token"))
    assert prompts(one) == ["what is <|head|>?"]


def test_a_prompt_for_an_answer_that_no_answer_begins_with_is_refused() -> None:
    template = CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    with pytest.raises(RowRefused, match="does not begin an answer as it prompts for it"):
        rendered(template, said("a", "b"))


def test_a_date_is_the_same_on_any_day() -> None:
    (one,) = rendered("{{ strftime_now('%d %b %Y') }} " + CHATML, said("a", "b"))
    assert one.text.startswith("26 Jul 2024 <|im_start|>")


def test_a_tokenizer_without_a_template_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"chat template; got .* try: the -Instruct version"):
        ChatTemplate(tokenizer(None))
