"""Messages of chats, as different data sets write them, in the one form that templates read."""

from __future__ import annotations

from typing import Any

import msgspec

from metronorm.data.refused import RowRefused, shown

Message = dict[str, Any]

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "observation": "tool",
    "function_response": "tool",
} | {role: role for role in ("system", "developer", "user", "assistant", "tool")}


def as_message(message: Any) -> tuple[Message, Any]:
    """A message as chat templates read it, and the weight that it carries, as OpenAI's may."""
    if not isinstance(message, dict):
        raise RowRefused("a message is no object", shown(message))
    known = {key: value for key, value in message.items() if value is not None}
    weight = known.pop("weight", None)
    speaker = known.pop("role", known.pop("from", None))
    if not isinstance(speaker, str) or speaker.casefold() not in _ROLES:
        raise RowRefused("a message has an unknown role", shown(speaker))
    if "content" not in known and "value" in known:
        known["content"] = known.pop("value")
    content = known.get("content")
    if isinstance(content, list):
        known["content"] = "\n".join(map(_part, content))
    elif content is not None and not isinstance(content, str):
        raise RowRefused("a message has other content than text", shown(content))
    if calls := known.get("tool_calls"):
        known["tool_calls"] = [_call(call) for call in calls] if isinstance(calls, list) else calls
    return {"role": _ROLES[speaker.casefold()], **known}, weight


def _part(part: Any) -> str:
    """The text of a part of a message; many templates know none but whole texts."""
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    if not isinstance(text, str):
        raise RowRefused("a message has other content than text", shown(part))
    return text


def _call(call: Any) -> Any:
    """A call of a tool with its arguments as an object: templates read no text of JSON there."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if function is None or not isinstance(arguments, str):
        return call
    try:
        return {**call, "function": {**function, "arguments": msgspec.json.decode(arguments)}}
    except (msgspec.DecodeError, RecursionError):
        return call
