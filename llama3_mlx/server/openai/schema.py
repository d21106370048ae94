"""Bodies of OpenAI's requests as their clients send them: null counts as absent, wrong types are refused.

Source: https://platform.openai.com/docs/api-reference and the types of the `openai` package. Fields that OpenAI has and
that mean nothing here are accepted; which ones a request sent stands in the header `x-ignored-parameters`.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..core.schema import Body, KeepAlive, option, refusal


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: bool | None = None


class StructuredOutputs(Body):
    """Structured output: a constraint on the whole answer, under the names of vLLM's server.

    Source: https://docs.vllm.ai/en/latest/features/structured_outputs.html.
    """

    json_: dict[str, Any] | None = Field(None, alias="json", description="JSON schema")
    regex: str | None = Field(None, description="regular expression")
    choice: list[str] | None = Field(None, min_length=1, description="the answer is one of these texts")
    grammar: str | None = Field(None, description="Lark or GBNF grammar")

    @model_validator(mode="after")
    def _has_one_constraint(self) -> Self:
        if len(self.settings()) != 1:
            raise ValueError("give exactly one of json, regex, choice and grammar")
        return self

    def settings(self) -> dict[str, Any]:
        """Return what was given by the names of GenerationOptions."""
        given = {"schema": self.json_, "regex": self.regex, "choices": self.choice, "grammar": self.grammar}
        return {name: value for name, value in given.items() if value is not None}


_CONSTRAINTS = "give structured_outputs"


class SamplingFields(Body):
    """The settings that all of OpenAI's generating requests share, and those of ours beside them."""

    refused: ClassVar = {
        "min_tokens": "an answer ends where the model ends it; ignore_eos writes on to max_tokens",
        "stop_token_ids": "give the texts in stop",
        "guided_json": _CONSTRAINTS,
        "guided_regex": _CONSTRAINTS,
        "guided_choice": _CONSTRAINTS,
        "guided_grammar": _CONSTRAINTS,
    }
    model: str | None = Field(None, description="model, or model:adapter; absent: the server's first model")
    max_tokens: int | None = option("max_tokens")
    temperature: float | None = option("temperature")
    top_p: float | None = option("top_p")
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    stop: str | list[str] | None = Field(None, description="the answer ends before any of these texts")
    n: int | None = Field(None, ge=1, description="answers to write")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = Field(None, description="token id to what is added to its logit")
    top_k: int | None = option("top_k")
    min_p: float | None = option("min_p")
    repetition_penalty: float | None = option("repetition_penalty")
    repetition_window: int | None = option("repetition_window")
    typical_p: float | None = option("typical_p")
    xtc_probability: float | None = option("xtc_probability")
    xtc_threshold: float | None = option("xtc_threshold")
    ignore_eos: bool | None = option("ignore_eos")
    speculate: bool | None = option("speculate")
    timeout_s: float | None = option("timeout_s")
    structured_outputs: StructuredOutputs | None = None
    keep_alive: KeepAlive = Field(None, description="how long the model stays loaded, as Ollama takes it")
    user: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return what was given by the names of GenerationOptions."""
        given = {name: getattr(self, name) for name in _PLAIN if getattr(self, name) is not None}
        if self.seed is not None:
            given["seed"] = self.seed % 2**64
        if self.stop is not None:
            given["stop"] = tuple([self.stop] if isinstance(self.stop, str) else self.stop)
        for name in ("presence_penalty", "frequency_penalty"):
            if getattr(self, name):
                given[name] = getattr(self, name)
        if self.logit_bias:
            given["logit_bias"] = self.logit_bias
        if self.structured_outputs is not None:
            given |= self.structured_outputs.settings()
        return given


_PLAIN = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repetition_window",
    "typical_p",
    "xtc_probability",
    "xtc_threshold",
    "ignore_eos",
    "speculate",
    "timeout_s",
)


class ContentPart(Body):
    """A part of a message's content; of all kinds there are, a model of text reads text."""

    type: str
    text: str | None = None


class FunctionCall(Body):
    """The function of a tool call, its arguments JSON in a string."""

    name: str
    arguments: str | dict[str, Any] | None = None


class MessageToolCall(Body):
    """A tool call in an assistant's message."""

    id: str | None = None
    type: str | None = None
    function: FunctionCall


class ChatMessage(Body):
    """A message of a dialog."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None


class FunctionSpec(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Body):
    """A tool: functions are the one kind there is."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Body):
    """The name of a function."""

    name: str


class NamedTool(Body):
    """The tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    """A schema for the answer."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The format of the answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="with json_object, as llama.cpp takes it")

    def constraint(self) -> dict[str, Any] | None:
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

    refused: ClassVar = SamplingFields.refused | {
        "functions": "give them as tools",
        "function_call": "give tools and tool_choice",
        "audio": "these models write text",
        "web_search_options": "the server searches nothing",
        "echo": "a chat's answer stands alone",
        "prompt_logprobs": "use echo and logprobs of /v1/completions",
    }
    messages: list[ChatMessage]
    max_completion_tokens: int | None = option("max_tokens")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="values for the checkpoint's chat template")
    modalities: list[str] | None = None
    continue_final_message: bool | None = Field(None, description="write on at the end of the assistant's last message")
    add_generation_prompt: bool | None = Field(None, description="false with continue_final_message, else true")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise refusal("tool_choice", "tool_choice needs tools to choose from")
        if set(self.modalities or ()) - {"text"}:
            raise refusal("modalities", "modalities can only be text: these models write text")
        if self.add_generation_prompt is not None and self.add_generation_prompt == bool(self.continue_final_message):
            raise refusal(
                "add_generation_prompt",
                "add_generation_prompt must be false with continue_final_message, and true without",
            )
        return self

    def settings(self) -> dict[str, Any]:
        """Return what was given by the names of GenerationOptions."""
        given = super().settings()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return given


class CompletionRequest(SamplingFields):
    """Body of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]] | None = Field(
        None, description="text, texts, token ids, or lists of token ids; absent: the beginning of a text"
    )
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1)
    response_format: ResponseFormat | None = None
    refused: ClassVar = SamplingFields.refused | {
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
    user: str | None = None
