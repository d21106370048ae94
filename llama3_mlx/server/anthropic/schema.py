"""Bodies of Anthropic's requests. Unknown fields are let through and named in `x-ignored-parameters`.

Source: https://docs.anthropic.com/en/api/messages and the types of the `anthropic` package.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from ..core.schema import Body, option


class ContentBlock(Body):
    """A block of a message's content; which fields it has depends on its type."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[ContentBlock] | None" = None
    is_error: bool | None = None


class AnthropicMessage(Body):
    """A message of a dialog."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class AnthropicTool(Body):
    """A tool with the JSON schema of its input."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None


class ToolChoice(Body):
    """Which tool may or must be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Body):
    """The format of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """`output_config`; its `effort` means nothing here."""

    format: OutputFormat | None = None
    effort: str | None = None


class CountRequest(Body):
    """Body of /v1/messages/count_tokens."""

    model: str | None = None
    messages: list[AnthropicMessage]
    system: str | list[ContentBlock] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: ToolChoice | None = None


class MessagesRequest(CountRequest):
    """Body of /v1/messages."""

    refused: ClassVar = {"mcp_servers": "the server calls no others"}
    max_tokens: int = Field(ge=1, description="maximum tokens to generate")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = option("top_p")
    top_k: int | None = option("top_k")
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(None, description="as it was called before output_config.format")
    metadata: dict[str, Any] | None = None

    @property
    def constraint(self) -> dict[str, Any] | None:
        """The schema that the answer has to follow, if there is one."""
        output_format = (self.output_config.format if self.output_config else None) or self.output_format
        return output_format.schema_ if output_format else None

    def settings(self) -> dict[str, Any]:
        """Return what was given by the names of GenerationOptions.

        max_tokens isn't among it: it may be more than the context leaves, where the answer then ends.
        """
        names = ("temperature", "top_p", "top_k")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return {**given, "stop": tuple(self.stop_sequences)} if self.stop_sequences else given
