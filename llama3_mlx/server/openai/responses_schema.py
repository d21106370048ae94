"""Bodies of OpenAI's Responses API.

Source: https://platform.openai.com/docs/api-reference/responses and the types of the `openai` package.
"""

from typing import ClassVar, Literal

from pydantic import Field

from ...json_types import JsonObject
from ..core.schema import Body, KeepAlive, TokenLimit, option, without_sentinels

LOGPROBS = "message.output_text.logprobs"


class InputPart(Body):
    """A part of a message's content."""

    without_effect: ClassVar = frozenset({"annotations", "logprobs", "prompt_cache_breakpoint"})
    type: str
    text: str | None = None
    refusal: str | None = None


class ResponseTool(Body):
    """A tool; which fields it has depends on its type."""

    without_effect: ClassVar = frozenset({"allowed_callers", "async", "defer_loading", "output_schema"})
    type: str
    name: str | None = None
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None
    format: JsonObject | None = Field(None, description="of a custom tool's input")
    tools: "list[ResponseTool] | None" = Field(None, description="of a namespace")


class InputItem(Body):
    """A message, a tool call or its output, a reference; which fields it has depends on its type."""

    without_effect: ClassVar = frozenset({"async", "caller", "phase", "status"})
    type: str | None = None
    role: str | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[InputPart] | None = None
    id: str | None = None
    tools: list[ResponseTool] | None = None


class ChosenTool(Body):
    """A tool that has to be called, or that is allowed."""

    type: str
    name: str | None = None


class ResponsesAllowedTools(Body):
    """The tools that may, or one of which must, be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ChosenTool]


class TextFormat(Body):
    """The format of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextSettings(Body):
    """`text`."""

    format: TextFormat | None = None
    without_effect: ClassVar = frozenset({"verbosity"})


class ResponseInput(Body):
    """What a response and the count of its tokens have in common."""

    refused: ClassVar = {
        "conversation": "continue an earlier response with previous_response_id",
        "prompt": "the server keeps no prompts; give instructions and input",
        "messages": "the Responses API calls them input",
        "response_format": "the Responses API calls it text.format",
        "personality": "give instructions",
    }
    without_effect: ClassVar = frozenset({"reasoning", "truncation"})
    model: str | None = None
    input: str | list[InputItem]
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponsesAllowedTools | ChosenTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextSettings | None = None
    keep_alive: KeepAlive = None


class ResponsesRequest(ResponseInput):
    """Body of /v1/responses."""

    refused: ClassVar = {
        "background": "stream the response, or wait for it",
        "background_options": "stream the response, or wait for it",
        "max_tokens": "the Responses API calls it max_output_tokens",
        "moderation": "judge texts with a Llama Guard at /v1/moderations",
        "image": "these models write text",
        "stop": "use /v1/chat/completions",
        "seed": "use /v1/chat/completions",
        "n": "use /v1/chat/completions",
    }
    without_effect: ClassVar = frozenset(
        {
            "access_programs",
            # What it leaves out makes room; here a dialog that fits is used whole, and one that doesn't is refused.
            "context_management",
            "max_tool_calls",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "stream_options",
            "user",
        }
    )
    max_output_tokens: TokenLimit | None = None
    temperature: float | None = option("temperature")
    top_p: float | None = option("top_p")
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = Field(None, description=f"{LOGPROBS}; what else there is has no effect here")

    @property
    def logprobs(self) -> int | None:
        """How many alternatives to give with each token's log-probability, None for no log-probabilities."""
        given = self.top_logprobs is not None or LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if given else None

    def ignored(self) -> list[str]:
        """Return the fields that were sent and have no effect here."""
        others = sorted(set(self.include or ()) - {LOGPROBS})
        return [*super().ignored(), *(f"include.{name}" for name in others)]

    def settings(self) -> JsonObject:
        """Return what was given by the names of GenerationOptions."""
        given = {"max_tokens": self.max_output_tokens, "temperature": self.temperature, "top_p": self.top_p}
        return without_sentinels({name: value for name, value in given.items() if value is not None})
