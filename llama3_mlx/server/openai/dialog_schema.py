"""Messages and tools of a chat as OpenAI's clients send them.

Source: https://platform.openai.com/docs/api-reference/chat and the types of the `openai` package.
"""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ...json_types import JsonObject, JsonValue
from ..core.schema import Body
from ..http.errors import ApiError


class ContentPart(Body):
    """A part of a message's content; of all kinds there are, a model of text reads text."""

    without_effect: ClassVar = frozenset({"prompt_cache_breakpoint", "cache_control"})
    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Body):
    """The function of a tool call, its arguments JSON in a string."""

    name: str
    arguments: str | JsonObject | None = None


class CustomCall(Body):
    """The custom tool of a tool call, its input any text."""

    name: str
    input: str


class MessageToolCall(Body):
    """A tool call in an assistant's message."""

    id: str | None = None
    type: str | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class ChatMessage(Body):
    """A message of a dialog."""

    refused: ClassVar = {"audio": "these models read text: give what was said as content"}
    without_effect: ClassVar = frozenset({"annotations", "reasoning_content", "reasoning"})
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    function_call: FunctionCall | None = None

    def as_message(self) -> JsonObject:
        """Return the message with content as text parts and calls as those of functions."""
        calls = [_function_call(call) for call in self.tool_calls or ()]
        if self.function_call is not None:
            calls.append({"function": self.function_call.model_dump(include={"name", "arguments"})})
        content: JsonValue = self.content if self.content is not None else self.refusal
        if isinstance(content, list):
            content = [_text_part(part) for part in content]
        message = {"role": self.role, "content": content, "name": self.name, "tool_call_id": self.tool_call_id}
        if self.role == "function":
            message |= {"role": "tool", "tool_call_id": self.tool_call_id or self.name}
        return {**message, "tool_calls": calls or None}


def _function_call(call: MessageToolCall) -> JsonObject:
    if call.custom is not None:
        return {"id": call.id, "function": {"name": call.custom.name, "arguments": {"input": call.custom.input}}}
    if call.function is None:
        raise ApiError(400, "a tool call has neither a function nor a custom tool", param="messages")
    return {"id": call.id, "function": call.function.model_dump(include={"name", "arguments"}, exclude_none=True)}


def _text_part(part: ContentPart) -> JsonObject:
    return {"type": "text", "text": part.refusal} if part.type == "refusal" else {"type": part.type, "text": part.text}


class FunctionSpec(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class CustomFormat(Body):
    """The format of a custom tool's input."""

    type: str


class CustomSpec(Body):
    """A custom tool: its input is any text."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    format: CustomFormat | None = None


class ToolDefinition(Body):
    """A tool: a function, or a custom one; what else there is runs on OpenAI's servers."""

    type: str
    function: FunctionSpec | None = None
    custom: CustomSpec | None = None

    @model_validator(mode="after")
    def _has_its_part(self) -> Self:
        if self.type in ("function", "custom") and getattr(self, self.type) is None:
            raise ValueError(f"a tool of type {self.type} needs {self.type!r} with its name")
        return self


class ToolName(Body):
    """The name of a tool."""

    name: str


class NamedTool(Body):
    """A tool by its name."""

    type: Literal["function", "custom"]
    function: ToolName | None = None
    custom: ToolName | None = None

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if getattr(self, self.type) is None:
            raise ValueError(f"a tool of type {self.type} needs {self.type!r} with its name")
        return self

    @property
    def name(self) -> str:
        """Its name."""
        chosen = self.function if self.type == "function" else self.custom
        assert chosen is not None, "checked when the request was read"
        return chosen.name


class AllowedTools(Body):
    """The tools that may, or one of which must, be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolChoice(Body):
    """`tool_choice` of type allowed_tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools
