"""Bodies of OpenAI's requests as their clients send them: null counts as absent, wrong types are refused.

Source: https://platform.openai.com/docs/api-reference and the types of the `openai` package. Fields that OpenAI has and
that mean nothing here are accepted; which ones a request sent stands in the header `x-ignored-parameters`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..core.schema import Body, KeepAlive, TokenLimit, refusal, without_sentinels
from ..http.errors import ApiError
from ..json_types import JsonMapping, JsonObject
from .sampling_schema import SamplingFields


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
        content: Any = self.content if self.content is not None else self.refusal
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
    def _take_format(cls, value: Any) -> Any:
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
