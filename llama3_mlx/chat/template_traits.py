"""What a template takes, found out by trying it: content as text or parts, tool calls and their arguments.

A template that loops over the parts of content, as multimodal models have them, writes nothing for text, and one that
calls methods of text fails on parts; neither says so.
"""

from collections.abc import Callable, Mapping
from functools import cached_property

from ..errors import DialogError
from ..json_types import JsonValue
from .messages import MessageDict

# No template has it in its own words, and it is trimmed, cased and escaped by none.
_PROBE = "7q3z9"

Render = Callable[[list[MessageDict]], str]


class TemplateTraits:
    """What one template takes; `render` writes a dialog by it and raises DialogError where it refuses."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._roles: dict[str, bool] = {}

    def reads_parts(self, role: str) -> bool:
        """Return whether the template writes a message of this role if its content is parts, and doesn't if text."""
        if role not in self._roles:
            self._roles[role] = not self._writes(role, _PROBE) and self._writes(role, as_parts(_PROBE))
        return self._roles[role]

    @cached_property
    def takes_several_calls(self) -> bool:
        """Whether the template writes two tool calls of one message; Llama 3.1's refuses."""
        arguments: JsonValue = {} if self.takes_argument_objects else "{}"
        return self._renders([self._user, _calling(arguments, arguments)])

    @cached_property
    def takes_argument_objects(self) -> bool:
        """Whether the template takes a call's arguments as an object; some, as DeepSeek's, want them as text."""
        return self._renders([self._user, _calling({})]) or not self._renders([self._user, _calling("{}")])

    @cached_property
    def _user(self) -> MessageDict:
        return {"role": "user", "content": as_parts("x") if self.reads_parts("user") else "x"}

    def _writes(self, role: str, content: JsonValue) -> bool:
        # What templates insist on before and after a message of a role.
        before: list[MessageDict] = []
        if role in ("assistant", "tool", "ipython"):
            before = [self._user] if role == "assistant" else [self._user, _calling({})]
        after = [self._user] if role == "system" else []
        try:
            text = self._render([*before, {"role": role, "content": content}, *after])
        except DialogError:
            return False
        return _PROBE in text and f"'text': '{_PROBE}" not in text

    def _renders(self, messages: list[MessageDict]) -> bool:
        try:
            self._render(messages)
        except DialogError:
            return False
        return True


def as_parts(text: str) -> list[Mapping[str, str]]:
    """Return text as a list of one part."""
    return [{"type": "text", "text": text}]


def _calling(*arguments: JsonValue) -> MessageDict:
    calls = [{"id": "0", "type": "function", "function": {"name": "f", "arguments": value}} for value in arguments]
    return {"role": "assistant", "content": "", "tool_calls": calls}
