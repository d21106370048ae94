"""Finds tool calls in what a Llama 3 model writes, in all of its syntaxes, as the text streams in.

    {"name": "f", "parameters": {…}}           JSON, with or without "type": "function", one or several, or a list
    <function=f>{…}</function>                 anywhere in the text
    <tool_call>{"name": "f", "arguments": {…}}</tool_call>   anywhere in the text: Hermes models'
    [f(a=1), g()]                              Llama 3.2's
    brave_search.call(query="…")               the built-in tools'

`<|python_tag|>` may stand before. Apart from those in tags, a call begins a message or follows the tag. What only looks
like a call comes back as text, unchanged. Nothing is ever evaluated.
Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 and llama3_2.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..json_types import JsonMapping
from .call import Incomplete, ParsedCalls, PendingText, ToolCall, ToolNames
from .parse_json import TOOL_CALL_END, TOOL_CALL_TAG, read_function_tag, read_json_calls, read_tool_call_tag
from .parse_pythonic import read_builtin_call, read_pythonic_calls

PYTHON_TAG = "<|python_tag|>"
_FUNCTION_TAG = "<function="
_TAGS = (PYTHON_TAG, _FUNCTION_TAG, TOOL_CALL_TAG)
SHOWN_TAGS = frozenset((PYTHON_TAG, TOOL_CALL_TAG, TOOL_CALL_END))
"""Tags that may be control tokens, and that must stand in the text for calls to be found."""

_BETWEEN = re.compile(r"[\s;,]*")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """What a message says beside its calls, and the calls in their order."""

    content: str
    calls: tuple[ToolCall, ...]


def parse_tool_calls(text: str, names: Collection[str] | None = None, *, code_tool: str | None = None) -> ToolCalls:
    """Return the calls in a whole message; see ToolCallStream for `names` and `code_tool`."""
    stream = ToolCallStream(names, code_tool=code_tool)
    parts = [*stream.add(text), *stream.finish()]
    content = "".join(part for part in parts if isinstance(part, str))
    return ToolCalls(content, tuple(part for part in parts if isinstance(part, ToolCall)))


class ToolCallStream:
    """Takes a message as it is written and gives back text and calls, each as soon as it is certain.

    `names` are the tools that there are: only they can be called; None stands for any. `code_tool` names the tool
    that gets, as its argument `code`, whatever follows `<|python_tag|>` and is no call: the code interpreter's way.
    How the text is cut into pieces makes no difference.
    """

    def __init__(self, names: Collection[str] | None = None, *, code_tool: str | None = None) -> None:
        self._names = ToolNames(names)
        self._code_tool = code_tool
        self._held = ""
        self._closed = False
        self._at_start = True
        self._tagged = False
        self._called = False

    @property
    def pending(self) -> str:
        """The text that may yet become a call; empty within other text."""
        return self._held if self._at_start else ""

    def add(self, text: str) -> list[str | ToolCall]:
        """Take new text and return what has become certain."""
        self._held += text
        self._closed = any(bracket in text for bracket in "}])")
        return _joined(self._settle(final=False))

    def finish(self) -> list[str | ToolCall]:
        """Return the rest once the message has ended."""
        return _joined(self._settle(final=True))

    def _settle(self, *, final: bool) -> Iterator[str | ToolCall]:
        while self._held:
            step = self._first_part(final) if self._at_start else self._running_text(final)
            if step is None:
                return
            yield from step

    def _as_held(self, final: bool) -> PendingText:
        return PendingText(self._held, self._names, final, self._closed)

    def _first_part(self, final: bool) -> list[str | ToolCall] | None:
        """Settle what stands where calls may begin; None to wait for more."""
        lead = (_BETWEEN if self._called else _SPACE).match(self._held)
        start = lead.end() if lead else 0
        if start == len(self._held):
            return self._no_call(final) if final else None
        found = _read(self._as_held(final), start)
        if isinstance(found, Incomplete):
            return None
        if found is None:
            return self._no_call(final)
        self._held, self._called = self._held[found.end :], True
        return list(found.calls)

    def _no_call(self, final: bool) -> list[str | ToolCall] | None:
        """Go on with plain text, or gather what is code."""
        if self._called and not self._held.strip(" \t\r\n;,"):
            self._held = ""
            return []
        if self._tagged and self._code_tool and not self._called:
            if not final:
                return None
            code, self._held = self._held, ""
            return [ToolCall(self._code_tool, {"code": code})]
        self._at_start = False
        return []

    def _running_text(self, final: bool) -> list[str | ToolCall] | None:
        """Give out text up to the next tag that may begin a call."""
        places = [place for tag in _TAGS if (place := self._held.find(tag)) >= 0]
        if not places:
            keep = 0 if final else max(_overlap(self._held, tag) for tag in _TAGS)
            text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
            return [text] if text else None
        text, self._held = self._held[: min(places)], self._held[min(places) :]
        if self._held.startswith(PYTHON_TAG):
            self._held = self._held[len(PYTHON_TAG) :]
            self._at_start, self._tagged, self._called = True, True, False
            return [text]
        found = _read_tag(self._as_held(final), 0)
        if isinstance(found, Incomplete):
            return [text] if text else None
        if found is None:
            text, self._held = text + self._held[0], self._held[1:]
            return [text]
        if self._held.startswith(TOOL_CALL_TAG):
            # Another one may follow, and the space between them says nothing.
            self._at_start = self._called = True
        self._held = self._held[found.end :]
        return [text, *found.calls]


def _read(held: PendingText, start: int) -> ParsedCalls | Incomplete | None:
    """Return the calls that begin at `start`; Incomplete while that is open, None if there are none."""
    first = held.text[start]
    if first == "{":
        return read_json_calls(held, start)
    if first == "[":
        found = read_json_calls(held, start)
        return read_pythonic_calls(held, start) if found is None else found
    if first == "<":
        rest = held.text[start:]
        if not held.final and any(tag.startswith(rest) for tag in _TAGS):
            return Incomplete()
        return _read_tag(held, start)
    return read_builtin_call(held, start)


def _read_tag(held: PendingText, start: int) -> ParsedCalls | Incomplete | None:
    found = read_function_tag(held, start)
    return read_tool_call_tag(held, start) if found is None else found


def _overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)


def _joined(parts: Iterator[str | ToolCall]) -> list[str | ToolCall]:
    """Return the parts with neighboring texts joined and empty ones left out."""
    result: list[str | ToolCall] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        elif part:
            result.append(part)
    return result


def call_message(calls: Collection[ToolCall], content: str = "", ids: Collection[str] = ()) -> JsonMapping:
    """Return the assistant's message that makes the calls, as OpenAI shapes it."""
    listed = [
        {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}} for call in calls
    ]
    named = [{"id": name, **call} for name, call in zip(ids, listed, strict=True)] if ids else listed
    return {"role": "assistant", "content": content, "tool_calls": named}
