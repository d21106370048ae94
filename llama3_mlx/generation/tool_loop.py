"""A dialog in which the model calls functions until it has its answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError
from ..json_types import JsonMapping
from ..tools.call import ToolCall
from ..tools.functions import Tool, acall_tool, call_tool, result_text, tool_name
from ..tools.parser import call_message
from .completion import Completion


@dataclass
class ToolRun:
    """The dialog so far, calls and results included, and the model's last turn."""

    messages: list[JsonMapping]
    completion: Completion | None = None
    rounds: int = 0
    calls: list[ToolCall] = field(default_factory=list)
    """All calls that were made, in their order."""

    @property
    def text(self) -> str:
        """The model's answer."""
        return self.completion.text if self.completion is not None else ""

    def settings(self, tools: Sequence[Tool], max_rounds: int, settings: JsonMapping) -> Any:
        """Return the settings of the next turn; a choice that forces a call holds for the first one.

        Raises RequestError for tools that can't be run.
        """
        specifications = [tool_name(tool) for tool in tools if isinstance(tool, Mapping)]
        if specifications:
            raise RequestError(f"{', '.join(specifications)} can't be run: give functions, not specifications")
        choice = "auto" if self.rounds else settings.get("tool_choice", "auto")
        return {**settings, "tools": list(tools), "tool_choice": "none" if self.rounds >= max_rounds else choice}

    def step(self, completion: Completion) -> bool:
        """Take the model's turn; return whether it is the answer."""
        self.completion = completion
        if not completion.tool_calls:
            self.messages.append({"role": "assistant", "content": completion.text})
            return True
        self.rounds += 1
        ids = [f"call_{len(self.calls) + at}" for at in range(len(completion.tool_calls))]
        self.messages.append(call_message(completion.tool_calls, completion.text, ids))
        self.calls += completion.tool_calls
        return False

    def answer_calls(self, tools: Sequence[Tool]) -> None:
        """Run the calls of the last turn and add their results."""
        for call in self._latest:
            try:
                result = call_tool(_named(tools, call.name), call.arguments)
            except RequestError as error:
                result = {"error": str(error)}
            self._add_result(call, result)

    async def aanswer_calls(self, tools: Sequence[Tool]) -> None:
        """Run the calls of the last turn in an event loop and add their results."""
        for call in self._latest:
            try:
                result = await acall_tool(_named(tools, call.name), call.arguments)
            except RequestError as error:
                result = {"error": str(error)}
            self._add_result(call, result)

    @property
    def _latest(self) -> Sequence[ToolCall]:
        return self.completion.tool_calls if self.completion is not None else ()

    def _add_result(self, call: ToolCall, result: Any) -> None:
        at = next(at for at, known in enumerate(self.calls) if known is call)
        self.messages.append(
            {"role": "tool", "name": call.name, "tool_call_id": f"call_{at}", "content": result_text(result)}
        )


def _named(tools: Sequence[Tool], name: str) -> Tool:
    return next(tool for tool in tools if tool_name(tool) == name)
