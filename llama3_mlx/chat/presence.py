"""Whether the text of each message stands in what a template wrote."""

import json
from collections.abc import Callable, Collection, Sequence

from ..errors import DialogError
from .messages import MessageDict, MessageMapping

# A shorter text may stand there by chance.
_SHORT = 8


def doubtful(messages: Sequence[MessageMapping], text: str, proven_roles: Collection[str]) -> list[int]:
    """Return the messages whose content isn't in the text, as it is or as JSON, or is too short to tell by that.

    Short ones of a role in `proven_roles` count as any other.
    """
    found, at = [], 0
    for index, message in enumerate(messages):
        content = message["content"].strip()
        if not content:
            continue
        # Messages mostly follow one another in the text.
        start = text.find(content, at)
        start = text.find(content) if start < 0 else start
        escaped = json.dumps(content, ensure_ascii=False)[1:-1]
        if start < 0 and escaped not in text:
            found.append(index)
            continue
        at = max(at, start + len(content))
        if len(content) < _SHORT and message["role"] not in proven_roles:
            found.append(index)
    return found


def lost(
    messages: Sequence[MessageMapping], suspects: Sequence[int], mark: str, render: Callable[..., str]
) -> list[int]:
    """Return those of the suspects of which nothing is written, neither their beginning nor their end.

    `mark` is a character that occurs nowhere; `render(messages)` writes a dialog. Templates may leave a part of a
    message out, as those of reasoning models do.
    """
    marked = [dict(message) for message in messages]
    for index in suspects:
        label = f"{mark}{index}{mark}"
        content = marked[index]["content"].strip()
        marked[index]["content"] = f"{content[:1]}{label}{content[1:]}{label}"
    try:
        text = render(marked)
    except DialogError:
        return list(suspects)
    return [index for index in suspects if f"{mark}{index}{mark}" not in text]


def calls_after_text(messages: Sequence[MessageDict], indexes: Collection[int]) -> list[MessageDict]:
    """Return the dialog with the text before tool calls as a message of its own, at these indexes."""
    result: list[MessageDict] = []
    for index, message in enumerate(messages):
        if index in indexes and message.get("tool_calls"):
            result.append({key: value for key, value in message.items() if key != "tool_calls"})
            result.append({**message, "content": ""})
        else:
            result.append(message)
    return result
