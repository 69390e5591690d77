"""Render conversations with the tokenizer's own template, and find the answers in the render.

Where an answer begins and ends is not guessed from markers. The conversation is rendered up to the
answer, with the prompt for it, and up to its end; the whole render must begin with both:

    whole    <user>Hi<end><assistant>Hello.<end><user>Bye<end><assistant>See you.<end>
    before   <user>Hi<end><assistant>
    after    <user>Hi<end><assistant>Hello.<end>

What is between them must be the answer as the row has it, and a special token that ends it. A row
for which one of this does not hold is refused.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from metronorm.data.refused import RowRefused
from metronorm.errors import DataError
from metronorm.finetune.library import library
from metronorm.text import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from metronorm.finetune.columns import Conversation
    from metronorm.finetune.messages import Message

    Span = tuple[int, int]

_TODAY = date(2024, 7, 26)  # Llama's templates write it where they know no date

_TODAYS = re.compile(r"""strftime_now\((["'])(.*?)\1\)""")

_CHECKED_ROLES = ("system", "developer", "user")  # templates wrap what tools say in JSON


class Rendered(NamedTuple):
    """A text, and what is what in it; spans are (start, stop) in characters.

    Attributes:
        text: the whole.
        answers: what is trained on, in order; each ends with the token that ends an answer.
        prompts: what may be cut, in order: the words of messages, without the template's own.
    """

    text: str
    answers: list[Span]
    prompts: list[Span]


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: from `transformers`.

    Raises:
        DataError: it has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        jinja2 = library("jinja2")
        self._tokenizer = tokenizer
        try:
            template = tokenizer.get_chat_template()
        except ValueError:
            raise DataError(
                "the task chat needs a tokenizer with a chat template",
                got="a tokenizer without one",
                fix="the -Instruct version of the model, or --task text with prompt and completion",
            ) from None
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= {str(token) for token in tokenizer.all_special_tokens}
        ends = {tokenizer.bos_token, tokenizer.eos_token}
        control = sorted(token for token in special if token in template or token in ends)
        # a template is a program of its own, and what it does with odd messages is its own affair
        self._errors = (
            jinja2.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        )
        self._control = re.compile("|".join(map(re.escape, control)) or r"(?!)")

    def render(self, conversation: Conversation, *, split: bool = False) -> list[Rendered]:
        """Render a conversation, and find what is to be trained on.

        Args:
            conversation: with at least one answer to learn.
            split: render each answer with what came before it, as if it were the last. Else all are
                in one render.

        Raises:
            RowRefused: the answers cannot be told from the render with certainty.
        """
        messages, learned, tools = conversation
        for message in messages:
            if found := self._control.search(_text(message)):
                raise RowRefused("a message spells a token of the template", found.group())
        answers = [number for number, counts in enumerate(learned) if counts]
        for number in answers:
            if not _said(messages[number]):
                raise RowRefused("empty answer", f"message {number + 1}")
        if not split:
            return [self._rendered(messages, answers, tools)]
        return [self._rendered(messages[: number + 1], [number], tools) for number in answers]

    def _rendered(
        self, messages: Sequence[Message], answers: Sequence[int], tools: list[Any] | None
    ) -> Rendered:
        whole = self._apply(messages, tools)
        found = [self._answer(whole, messages, number, tools) for number in answers]
        if any(one[1] > other[0] for one, other in pairwise(found)):
            raise RowRefused("the answers overlap in the chat template")
        spans = dict(zip(answers, found, strict=True))
        return Rendered(whole, found, list(_prompts(whole, messages, spans)))

    def _answer(
        self, whole: str, messages: Sequence[Message], number: int, tools: list[Any] | None
    ) -> Span:
        """Where an answer is in the whole render, up to the end of the token that ends it."""
        if not number:
            raise RowRefused("the conversation begins with an answer")
        before = self._apply(messages[:number], tools, prompt=True)
        last = number + 1 == len(messages)
        after = whole if last else self._apply(messages[: number + 1], tools)
        if not whole.startswith(before):
            raise _rewritten(whole, before, number, is_last=last)
        # some templates end a conversation with a token more
        span = whole[len(before) : _same(whole, after)]
        said = _said(messages[number])
        if end := self._end(span, said):
            return len(before), len(before) + end
        if self._end(after[len(before) :], said):  # in a conversation that ends with it
            raise _rewritten(whole, after, number, is_last=last)
        if _holds(span, said):
            raise RowRefused("the chat template ends an answer with no token", _shown(span[-40:]))
        raise RowRefused("the chat template changes an answer", _shown(span))

    def _end(self, span: str, said: list[str]) -> int:
        """Where the token ends that ends an answer; 0 if there is none after what it says."""
        ends = list(self._control.finditer(span))
        return ends[-1].end() if ends and _holds(span[: ends[-1].start()], said) else 0

    def _apply(
        self, messages: Sequence[Message], tools: list[Any] | None, *, prompt: bool = False
    ) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages),
                    tools=tools,
                    chat_template=_dated(self._tokenizer.get_chat_template(tools=tools)),
                    tokenize=False,
                    add_generation_prompt=prompt,
                )
            )
        except self._errors as error:
            raise RowRefused("the chat template refuses it", _shown(str(error))) from None


@lru_cache(4)
def _dated(template: str) -> str:
    """The template with a fixed date instead of today's: tomorrow the data must be the same."""
    return _TODAYS.sub(lambda call: repr(_TODAY.strftime(call[2])), template)


def _prompts(
    whole: str, messages: Sequence[Message], answers: Mapping[int, Span]
) -> Iterator[Span]:
    """Where the words of the messages are that are not trained on."""
    at = 0
    for number, message in enumerate(messages):
        if number in answers:
            at = answers[number][1]
            continue
        text = _text(message)
        start = whole.find(text, at)
        if start >= 0:
            at = start + len(text)
            if text:
                yield start, at
        elif message["role"] in _CHECKED_ROLES and not _holds(whole, [text]):
            raise RowRefused("the chat template leaves out a message", _shown(text))


def _text(message: Message) -> str:
    """What a message says, without space around it, which templates strip or keep."""
    return str(message.get("content") or "").strip()


def _said(message: Message) -> list[str]:
    """What an answer must have: what it says, and the names of the tools that it calls."""
    calls = message.get("tool_calls") or []
    functions = (call.get("function", call) for call in calls if isinstance(call, dict))
    names = (each.get("name") for each in functions if isinstance(each, dict))
    return [text for text in (_text(message), *names) if isinstance(text, str) and text]


def _rewritten(whole: str, part: str, number: int, *, is_last: bool) -> RowRefused:
    same = _same(whole, part)
    detail = f"message {number + 1}: {_shown(part[same : same + 60])} becomes " + _shown(
        whole[same : same + 60]
    )
    if not is_last:
        return RowRefused("the chat template rewrites earlier turns (--turns split)", detail)
    return RowRefused("the chat template does not begin an answer as it prompts for it", detail)


def _same(one: str, other: str) -> int:
    """How many characters two texts begin with that are the same."""
    if one.startswith(other):
        return len(other)
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(one))


def _holds(whole: str, texts: list[str]) -> bool:
    """Whether texts are in the whole, wherever the space between their words has changed."""
    if all(text in whole for text in texts):
        return True
    squeezed = "".join(whole.split())
    return all("".join(text.split()) in squeezed for text in texts)


def _shown(text: str) -> str:
    return shortened(printable(text), 80)
