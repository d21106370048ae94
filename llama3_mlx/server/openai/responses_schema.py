"""Bodies of OpenAI's Responses API.

Source: https://platform.openai.com/docs/api-reference/responses and the types of the `openai` package.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..core.schema import Body, KeepAlive, option, refusal

LOGPROBS = "message.output_text.logprobs"


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
    """The format of the answer."""

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

    refused: ClassVar = {
        "conversation": "go on from an earlier response with previous_response_id",
        "prompt": "the server keeps no prompts; give instructions and input",
        "max_tokens": "the Responses API calls it max_output_tokens",
        "messages": "the Responses API calls them input",
        "response_format": "the Responses API calls it text.format",
        "stop": "use /v1/chat/completions",
        "seed": "use /v1/chat/completions",
        "n": "use /v1/chat/completions",
    }
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
    include: list[str] | None = Field(None, description=f"{LOGPROBS}; what else there is means nothing here")
    keep_alive: KeepAlive = None

    @model_validator(mode="after")
    def _has_tools(self) -> Self:
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise refusal("tool_choice", "tool_choice needs tools to choose from")
        return self

    @property
    def logprobs(self) -> int | None:
        """How many alternatives to give with each token's log-probability, None for no log-probabilities."""
        given = self.top_logprobs is not None or LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if given else None

    def ignored(self) -> list[str]:
        """Return the fields that were sent and mean nothing here."""
        others = sorted(set(self.include or ()) - {LOGPROBS})
        return [*super().ignored(), *(f"include.{name}" for name in others)]

    def settings(self) -> dict[str, Any]:
        """Return what was given by the names of GenerationOptions."""
        given = {"max_tokens": self.max_output_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return {name: value for name, value in given.items() if value is not None}
