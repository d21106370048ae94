"""Bodies of Anthropic's requests. Unknown fields are let through and named in `x-ignored-parameters`.

Source: https://docs.anthropic.com/en/api/messages and the types of the `anthropic` package.
"""

from typing import ClassVar, Literal

from pydantic import Field

from ...json_types import JsonObject
from ..core.schema import Body, TopK, option, without_sentinels


class TextSource(Body):
    """The source of a document: text can be read."""

    type: str
    data: str | None = None
    content: "str | list[ContentBlock] | None" = None


class ContentBlock(Body):
    """A block of a message's content; which fields it has depends on its type."""

    without_effect: ClassVar = frozenset({"cache_control", "caller", "citations", "toolset_name"})
    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: JsonObject | None = None
    tool_use_id: str | None = None
    content: "str | list[ContentBlock] | None" = None
    is_error: bool | None = None
    source: TextSource | str | None = Field(None, description="of a document, or of a search result")
    title: str | None = None
    context: str | None = None


class AnthropicMessage(Body):
    """A message of a dialog."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class AnthropicTool(Body):
    """A tool with the JSON schema of its input; those without one are Anthropic's own."""

    without_effect: ClassVar = frozenset(
        {
            "allowed_callers",
            "cache_control",
            "defer_loading",
            "eager_input_streaming",
            "input_examples",
            "strict",
        }
    )
    name: str | None = Field(None, min_length=1, max_length=128)
    description: str | None = None
    input_schema: JsonObject | None = None
    type: str | None = None


class AnthropicToolChoice(Body):
    """Which tool may or must be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Body):
    """The format of the answer."""

    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class OutputConfig(Body):
    """`output_config`."""

    without_effect: ClassVar = frozenset({"effort", "task_budget"})
    format: OutputFormat | None = None


class CountRequest(Body):
    """Body of /v1/messages/count_tokens."""

    refused: ClassVar = {
        "mcp_servers": "the server calls no others",
        "container": "the server runs no code",
        "compaction": "leave it out, or sum the conversation up yourself",
    }
    without_effect: ClassVar = frozenset(
        {
            "betas",
            "cache_control",
            # What these leave out makes room; here a dialog that fits is used whole, and one that doesn't is refused.
            "context_management",
            "fallback_credit_token",
            "speed",
            "thinking",
            "user_profile_id",
            "workspace_id",
        }
    )
    model: str | None = None
    messages: list[AnthropicMessage]
    system: str | list[ContentBlock] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="as it was called before output_config.format")
    # Refused by the handler, with the code on which Anthropic's clients send the whole conversation themselves.
    thread: JsonObject | None = Field(None, description="refused: send the whole conversation")

    @property
    def constraint(self) -> JsonObject | None:
        """The schema that the answer has to follow, if there is one."""
        output_format = (self.output_config.format if self.output_config else None) or self.output_format
        return output_format.schema_ if output_format else None


class MessagesRequest(CountRequest):
    """Body of /v1/messages."""

    without_effect: ClassVar = frozenset(
        {
            "billing_policy",
            "diagnostics",
            "fallbacks",
            "inference_geo",
            "metadata",
            "service_tier",
        }
    )
    max_tokens: int = Field(ge=1, description="maximum tokens of an answer, which ends with its context anyway")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = option("top_p")
    top_k: TopK | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None

    def settings(self) -> JsonObject:
        """Return what was given by the names of GenerationOptions."""
        names = ("max_tokens", "temperature", "top_p", "top_k")
        given = without_sentinels({name: getattr(self, name) for name in names if getattr(self, name) is not None})
        return {**given, "stop": tuple(self.stop_sequences)} if self.stop_sequences else given
