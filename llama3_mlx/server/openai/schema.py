"""Bodies of OpenAI's requests as their clients send them: null counts as absent, wrong types are refused.

Source: https://platform.openai.com/docs/api-reference and the types of the `openai` package. Fields that OpenAI has and
that mean nothing here are accepted; which ones a request sent stands in the header `x-ignored-parameters`.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from ...json_types import JsonMapping, JsonObject, JsonValue
from ..core.schema import Body, KeepAlive, TokenLimit, refusal, without_sentinels
from .dialog_schema import AllowedToolChoice, ChatMessage, ContentPart, NamedTool, ToolDefinition
from .sampling_schema import SamplingFields


class JsonSchema(Body):
    """A schema for the answer."""

    name: str | None = None
    description: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The format of the answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: JsonObject | None = Field(None, alias="schema", description="with json_object, as llama.cpp takes it")

    def constraint(self) -> JsonObject | None:
        """Return the schema that the answer has to follow, None for any text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return self.schema_ or {"type": "object"}
        assert self.json_schema is not None, "checked when the request was read"
        return self.json_schema.schema_

    @model_validator(mode="after")
    def _has_schema(self) -> Self:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise refusal("response_format", "response_format json_schema needs json_schema.schema")
        return self


class ChatRequest(SamplingFields):
    """Body of /v1/chat/completions."""

    refused: ClassVar = {
        "functions": "give them as tools",
        "function_call": "give tools and tool_choice",
        "audio": "these models write text",
        "web_search_options": "the server searches nothing",
        "echo": "a chat's answer stands alone",
        "prompt_logprobs": "use echo and logprobs of /v1/completions",
    }
    without_effect: ClassVar = frozenset(
        {
            "metadata",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_options",
            "prompt_cache_retention",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "store",
            "verbosity",
        }
    )
    messages: list[ChatMessage]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: JsonObject | None = Field(None, description="values for the checkpoint's chat template")
    modalities: list[str] | None = None
    return_progress: bool | None = Field(None, description="with stream: tell how much of the prompt has been run")
    continue_final_message: bool | None = Field(None, description="write on at the end of the assistant's last message")
    add_generation_prompt: bool | None = Field(None, description="false with continue_final_message, else true")

    @model_validator(mode="before")
    @classmethod
    def _take_format(cls, value: JsonValue) -> JsonValue:
        return _with_response_format(value) if isinstance(value, Mapping) and value.get("format") else value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if set(self.modalities or ()) - {"text"}:
            raise refusal("modalities", "modalities can only be text: these models write text")
        if self.add_generation_prompt is not None and self.add_generation_prompt == bool(self.continue_final_message):
            raise refusal(
                "add_generation_prompt",
                "add_generation_prompt must be false with continue_final_message, and true without",
            )
        return self

    def settings(self) -> JsonObject:
        """Return what was given by the names of GenerationOptions."""
        given = super().settings()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return without_sentinels(given)


class CompletionRequest(SamplingFields):
    """Body of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] | None = Field(
        None, description="text, texts, token ids, or lists of token ids; absent: the beginning of a text"
    )
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1)
    parse_special: bool | None = Field(None, description="recognize control tokens in the prompt")
    response_format: ResponseFormat | None = None
    refused: ClassVar = {
        "tools": "use /v1/chat/completions",
        "messages": "use /v1/chat/completions",
        "prompt_logprobs": "use echo with logprobs",
    }


class EmbeddingRequest(Body):
    """Body of /v1/embeddings."""

    model: str | None = None
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    keep_alive: KeepAlive = None
    without_effect: ClassVar = frozenset({"user"})
    refused: ClassVar = {"truncate_prompt_tokens": "nothing is left out of an input"}


class ModerationRequest(Body):
    """Body of /v1/moderations."""

    model: str | None = None
    input: str | list[str] | list[ContentPart]
    keep_alive: KeepAlive = None


def _with_response_format(body: JsonMapping) -> JsonObject:
    """Return a chat's body with Ollama's `format` as `response_format`."""
    others = {name: value for name, value in body.items() if name != "format"}
    given = body["format"]
    if others.get("response_format"):
        raise refusal("format", "format and response_format can't be given together")
    if isinstance(given, dict):
        return {**others, "response_format": {"type": "json_object", "schema": given}}
    if given != "json":
        raise refusal("format", f"format must be 'json' or a JSON schema, not {given!r:.80}")
    return {**others, "response_format": {"type": "json_object"}}
