"""Bodies of OpenAI's Responses API.

Source: https://platform.openai.com/docs/api-reference/responses and the types of the `openai` package.
"""

from typing import Any, Literal

from pydantic import Field

from .openai_schema import Body, KeepAlive, option


class InputPart(Body):
    """A part of a message's content."""

    type: str
    text: str | None = None


class InputItem(Body):
    """A message, a function call or a function's output; which fields it has depends on its type."""

    type: str | None = None
    role: str | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    id: str | None = None


class FunctionTool(Body):
    """A function that the model may call."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenTool(Body):
    """The function that has to be called."""

    type: Literal["function"]
    name: str


class TextFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextSettings(Body):
    """`text`."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesRequest(Body):
    """Body of /v1/responses."""

    model: str | None = None
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = option("max_tokens")
    temperature: float | None = option("temperature")
    top_p: float | None = option("top_p")
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    store: bool | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    truncation: Literal["disabled", "auto"] | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = None
    keep_alive: KeepAlive = None

    def settings(self) -> dict[str, Any]:
        """Return what was given by the names of GenerationOptions."""
        given = {"max_tokens": self.max_output_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in given.items() if value is not None}
