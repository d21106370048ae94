"""Lets a model call tools until it answers: its calls are run, their results go back to it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RequestError
from .tool_call import ToolCall
from .tool_calls import call_message, parse_tool_calls
from .tools import Tool, acall_tool, call_tool, result_text, tool_name, tool_specs

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolRun:
    """How a dialog with tools went: the answer, the whole dialog up to it, every call with its result."""

    text: str
    messages: tuple[Message, ...]
    calls: tuple[tuple[ToolCall, str], ...]


def run_tools(
    answer: Callable[[Sequence[Message]], str],
    messages: Sequence[Message],
    tools: Sequence[Callable[..., Any]],
    *,
    max_rounds: int = 8,
) -> ToolRun:
    """Answer a dialog, running the functions that the model calls, until it calls none.

    `answer` gives the model's text for a dialog. Arguments that don't fit go back to the model as an error; what a
    function raises goes to the caller. Raises RequestError if the model still calls after `max_rounds` rounds.
    """
    loop = _Loop(messages, tools, max_rounds)
    while calls := loop.take(answer(loop.messages)):
        for call, tool in calls:
            try:
                result = call_tool(tool, call.arguments)
            except RequestError as error:
                result = f"error: {error}"
            loop.put(call, result)
    return loop.ended()


async def arun_tools(
    answer: Callable[[Sequence[Message]], Awaitable[str]],
    messages: Sequence[Message],
    tools: Sequence[Callable[..., Any]],
    *,
    max_rounds: int = 8,
) -> ToolRun:
    """Do what `run_tools` does in an event loop; functions that aren't async run in threads."""
    loop = _Loop(messages, tools, max_rounds)
    while calls := loop.take(await answer(loop.messages)):
        for call, tool in calls:
            try:
                result = await acall_tool(tool, call.arguments)
            except RequestError as error:
                result = f"error: {error}"
            loop.put(call, result)
    return loop.ended()


class _Loop:
    """The dialog as it grows."""

    def __init__(self, messages: Sequence[Message], tools: Sequence[Tool], max_rounds: int) -> None:
        tool_specs(tools)
        specifications = [tool_name(tool) for tool in tools if isinstance(tool, Mapping)]
        if specifications:
            raise RequestError(f"{', '.join(specifications)} can't be run: give functions, not specifications")
        self._tools: dict[str, Any] = {tool_name(tool): tool for tool in tools}
        self._left = self._max_rounds = max_rounds
        self.messages: list[Message] = list(messages)
        self._calls: list[tuple[ToolCall, str]] = []
        self._waiting: list[str] = []
        self._text = ""

    def take(self, text: str) -> list[tuple[ToolCall, Any]]:
        """Take the model's text into the dialog and return the calls in it, each with its function."""
        found = parse_tool_calls(text, self._tools)
        if not found.calls:
            self._text = text
            self.messages.append({"role": "assistant", "content": text})
            return []
        if self._left == 0:
            raise RequestError(f"the model still calls tools after {self._max_rounds} rounds: raise max_rounds")
        self._left -= 1
        first = len(self._calls)
        self._waiting = [f"call_{first + number}" for number in range(len(found.calls))]
        self.messages.append(call_message(found.calls, found.content.strip(), self._waiting))
        return [(call, self._tools[call.name]) for call in found.calls]

    def put(self, call: ToolCall, result: Any) -> None:
        """Put the result of the next call into the dialog."""
        text = result_text(result)
        self._calls.append((call, text))
        answered = {"role": "tool", "tool_call_id": self._waiting.pop(0), "name": call.name, "content": text}
        self.messages.append(answered)

    def ended(self) -> ToolRun:
        return ToolRun(self._text, tuple(self.messages), tuple(self._calls))
