"""In which form a template reads content: as text, or as a list of parts as multimodal models have it.

A template that loops over parts writes nothing for text, and one that calls methods of text fails on parts; neither
says so. Each is tried with a message of the role in question.
"""

from collections.abc import Callable, Mapping

from ..errors import DialogError
from ..json_types import JsonValue
from .messages import MessageDict

# No template has it in its own words, and it is trimmed, cased and escaped by none.
_PROBE = "7q3z9"
_CALL = {"id": "0", "type": "function", "function": {"name": "f", "arguments": {}}}

Render = Callable[[list[MessageDict]], str]


def reads_parts(render: Render, role: str) -> bool:
    """Return whether a template writes a message of this role if its content is parts, and doesn't if it is text."""
    first_role = "user"
    in_parts = role != first_role and reads_parts(render, first_role)
    filler: MessageDict = {"role": first_role, "content": as_parts("x") if in_parts else "x"}
    before: dict[str, list[MessageDict]] = {
        "assistant": [filler],
        "tool": [filler, {"role": "assistant", "content": "", "tool_calls": [_CALL]}],
        "ipython": [filler, {"role": "assistant", "content": "", "tool_calls": [_CALL]}],
    }
    after = [filler] if role == "system" else []

    def writes(content: JsonValue) -> bool:
        try:
            text = render([*before.get(role, []), {"role": role, "content": content}, *after])
        except DialogError:
            return False
        return _PROBE in text and f"'text': '{_PROBE}" not in text

    return not writes(_PROBE) and writes(as_parts(_PROBE))


def as_parts(text: str) -> list[Mapping[str, str]]:
    """Return text as a list of one part."""
    return [{"type": "text", "text": text}]
