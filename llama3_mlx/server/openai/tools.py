"""The tools of a request as a model sees them: functions, custom tools and those in namespaces.

A tool that runs on OpenAI's servers is left out, with a note: the others can still be used.
Source: https://platform.openai.com/docs/guides/function-calling.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ...json_types import JsonMapping, JsonObject
from ..core.events import ToolCallEvent
from ..http.errors import ApiError

# What a chat takes as choice, and the names of the tools that are allowed: None for all.
ChosenTools = tuple[str, list[str] | None]
# The one argument of the function that stands for a custom tool.
_INPUT = "input"
_BEGINS_INPUT = re.compile(rf'\{{\s*"{_INPUT}"\s*:\s*"')
_ANY_TEXT = {"type": "object", "properties": {_INPUT: {"type": "string"}}, "required": [_INPUT]}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool under the name that the model sees."""

    seen_as: str
    name: str
    namespace: str | None = None
    is_custom: bool = False
    description: str = ""
    parameters: JsonMapping = field(default_factory=dict)

    def spec(self) -> JsonObject:
        """Return it as a function of OpenAI's chats."""
        described = {"name": self.seen_as, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": described}

    def input_of(self, call: ToolCallEvent) -> str:
        """Return the text that a call gives to a custom tool."""
        if call.arguments is not None:
            return str(call.arguments.get(_INPUT, ""))
        begins = _BEGINS_INPUT.match(call.arguments_json)
        return call.arguments_json[begins.end() :] if begins else ""


class ToolSet:
    """All tools that a request offers, by the names that the model sees."""

    def __init__(self) -> None:
        self._tools: dict[str, OfferedTool] = {}
        self.left_out: list[str] = []
        """Kinds or names of tools that are unavailable here."""

    def add_function(
        self, name: str, description: str | None, parameters: JsonMapping | None, namespace: str | None = None
    ) -> None:
        """Offer a function."""
        schema = parameters or {"type": "object", "properties": {}}
        self._add(name, namespace, description=description or "", parameters=schema)

    def add_custom(
        self, name: str, description: str | None, input_format: str | None, namespace: str | None = None
    ) -> None:
        """Offer a custom tool, which takes any text; one whose input has a grammar is left out."""
        if input_format not in (None, "text"):
            self.left_out.append(name)
            return
        self._add(name, namespace, is_custom=True, description=description or "", parameters=_ANY_TEXT)

    def __bool__(self) -> bool:
        return bool(self._tools)

    def __getitem__(self, seen_as: str) -> OfferedTool:
        return self._tools.get(seen_as) or OfferedTool(seen_as=seen_as, name=seen_as)

    def specs(self, allowed: Collection[str] | None = None) -> list[JsonObject]:
        """Return the functions that the model gets, of all or of those that are allowed."""
        return [tool.spec() for name, tool in self._tools.items() if allowed is None or name in allowed]

    def seen_as(self, name: str, namespace: str | None = None) -> str:
        """Return the name that the model sees of a tool; names in namespaces are found without them, too."""
        for tool in self._tools.values():
            if tool.name == name and namespace in (None, tool.namespace):
                return tool.seen_as
        return name

    def choose(self, choice: str | None) -> ChosenTools:
        """Return the choice between all tools; raises ApiError 400 where one must be called and there is none."""
        if choice == "required" and not self._tools:
            left = f": {', '.join(self.left_out)} can't be used here" if self.left_out else ""
            raise ApiError(400, f"tool_choice needs tools to choose from{left}", param="tool_choice")
        return choice or "auto", None

    def choose_named(self, name: str) -> ChosenTools:
        """Return the choice of one tool; raises ApiError 400 if it isn't there."""
        seen = self.seen_as(name)
        if seen not in self._tools:
            there = ", ".join(self._tools) or "none"
            raise ApiError(400, f"tool_choice is {name[:80]!r}; the tools are {there}", param="tool_choice")
        return seen, None

    def choose_among(self, mode: str, names: Iterable[str | None]) -> ChosenTools:
        """Return the choice between some tools; raises ApiError 400 where one must be called and none is there."""
        seen = [self.seen_as(name) for name in names if name is not None]
        allowed = [name for name in seen if name in self._tools]
        if mode == "required" and not allowed:
            raise ApiError(400, "none of the allowed tools is there", param="tool_choice")
        return mode, allowed

    def _add(self, name: str, namespace: str | None, **more: Any) -> None:
        there = self._tools.get(name)
        if there and there.namespace and not namespace:
            renamed = replace(there, seen_as=f"{there.namespace}__{name}")
            tools = [renamed if tool is there else tool for tool in self._tools.values()]
            self._tools = {tool.seen_as: tool for tool in tools}
        seen = f"{namespace}__{name}" if namespace and name in self._tools else name
        if seen in self._tools:
            raise ApiError(400, f"two tools are called {seen[:80]!r}", param="tools")
        self._tools[seen] = OfferedTool(seen_as=seen, name=name, namespace=namespace, **more)
