"""Generation settings as OpenAI's clients send them, with those of ours and of other servers beside them.

Source: https://platform.openai.com/docs/api-reference; for the names of other servers
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html and https://github.com/ggml-org/llama.cpp
(tools/server/README.md).
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ...json_types import JsonMapping, JsonObject, JsonValue
from ..core.schema import (
    Body,
    GenerationFields,
    KeepAlive,
    TokenLimit,
    TopK,
    given_settings,
    refusal,
    without_sentinels,
)

# What vLLM, llama.cpp, SGLang and Ollama call settings of ours.
_OTHER_NAMES = {
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "repetition_window",
    "n_predict": "max_tokens",
    "typ_p": "typical_p",
}
_CONSTRAINT_NAMES = {
    "grammar": "grammar",
    "guided_grammar": "grammar",
    "ebnf": "grammar",
    "regex": "regex",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "json_schema": "json",
    "guided_json": "json",
}
_WHOLE_CONTEXT = 2**31 - 1


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: bool | None = None
    without_effect: ClassVar = frozenset({"include_obfuscation"})


class StructuredOutputs(Body):
    """Structured output: a constraint on the whole answer, under the names of vLLM's server.

    Source: https://docs.vllm.ai/en/latest/features/structured_outputs.html.
    """

    refused: ClassVar = {
        "json_object": 'give response_format {"type": "json_object"}',
        "structural_tag": "give tools, or a grammar",
        "whitespace_pattern": "white space in JSON is that of the model, within bounds",
    }
    json_: JsonObject | None = Field(None, alias="json", description="JSON schema")
    regex: str | None = Field(None, description="regular expression")
    choice: list[str] | None = Field(None, min_length=1, description="the answer is one of these texts")
    grammar: str | None = Field(None, description="Lark or GBNF grammar")

    @model_validator(mode="after")
    def _has_one_constraint(self) -> Self:
        if len(self.settings()) != 1:
            raise ValueError("give exactly one of json, regex, choice and grammar")
        return self

    def settings(self) -> JsonObject:
        """Return what was given by the names of GenerationOptions."""
        given = {"schema": self.json_, "regex": self.regex, "choices": self.choice, "grammar": self.grammar}
        return {name: value for name, value in given.items() if value is not None}


class SamplingFields(GenerationFields):  # type: ignore[misc, valid-type]
    """The settings that all of OpenAI's generating requests share, and those of ours beside them."""

    refused: ClassVar = {
        "min_tokens": "an answer ends where the model ends it; ignore_eos goes on to max_tokens",
        "allowed_token_ids": "give structured_outputs, or logit_bias",
        "bad_words": "give logit_bias",
        "adapters": "name the adapter in model, as MODEL:ADAPTER",
        "adapter": "name the adapter in model, as MODEL:ADAPTER",
        "lora": "name the adapter in model, as MODEL:ADAPTER",
        "chat_template": "the checkpoint's own is used; give values for it in chat_template_kwargs",
        "documents": "give them as text in messages",
        "use_beam_search": "answers are sampled",
        "length_penalty": "answers are sampled",
        "include_stop_str_in_output": "an answer ends before its stop text",
        "truncate_prompt_tokens": "nothing is left out of a prompt",
        "structural_tag": "give tools, or structured_outputs",
        "json_object": 'give response_format {"type": "json_object"}',
        "mirostat": "use top_p, min_p or typical_p",
        "tfs_z": "use top_p, min_p or typical_p",
        "top_a": "use min_p",
        "top_n_sigma": "use min_p",
        "dynatemp_range": "give one temperature",
        "dry_multiplier": "use repetition_penalty",
        "t_max_predict_ms": "use timeout_s",
        "n_probs": "use logprobs",
        "samplers": "the order of the samplers is fixed",
        "logits_processors": "use logit_bias or structured_outputs",
        "thinking_token_budget": "these models write no thoughts apart",
        "guided_whitespace_pattern": "white space in JSON is that of the model, within bounds",
        "moderation": "judge texts with a Llama Guard at /v1/moderations",
    }
    harmless: ClassVar = {
        "length_penalty": (1,),
        "tfs_z": (1,),
        "top_n_sigma": (-1,),
        "truncate_prompt_tokens": (-1,),
        "t_max_predict_ms": (-1,),
        "thinking_token_budget": (-1,),
    }
    without_effect: ClassVar = frozenset({"user"})
    model: str | None = Field(None, description="model, or model:adapter; absent: the server's first model")
    max_tokens: TokenLimit | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1, description="same seed, same text; -1: none")] | None = None
    n: int | None = Field(None, ge=1, description="answers to write")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_k: TopK | None = None
    structured_outputs: StructuredOutputs | None = None
    keep_alive: KeepAlive = Field(None, description="how long the model stays loaded, as Ollama takes it")

    @model_validator(mode="before")
    @classmethod
    def _take_other_names(cls, value: JsonValue) -> JsonValue:
        return with_our_names(value) if isinstance(value, Mapping) else value

    def settings(self) -> JsonObject:
        """Return what was given by the names of GenerationOptions."""
        given = without_sentinels(given_settings(self))
        if "seed" in given:
            given["seed"] %= 2**64
        if self.structured_outputs is not None:
            given |= self.structured_outputs.settings()
        return given


def with_our_names(body: JsonMapping) -> JsonObject:
    """Return a body with the settings that other servers know by other names under those of ours."""
    renamed = {name: value for name, value in body.items() if value is not None}
    for other, ours in _OTHER_NAMES.items():
        if other in renamed:
            renamed.setdefault(ours, renamed.pop(other))
            renamed.pop(other, None)
    if renamed.get("repetition_window") == -1:
        renamed["repetition_window"] = _WHOLE_CONTEXT
    if renamed.get("repetition_window") == 0:
        del renamed["repetition_window"]
        renamed.pop("repetition_penalty", None)
    constraints = {other: renamed.pop(other) for other in _CONSTRAINT_NAMES if renamed.get(other) not in (None, "", {})}
    if len({*constraints, *({"structured_outputs"} & set(renamed))}) > 1:
        raise refusal(
            next(iter(constraints)), f"give one output constraint, not {' and '.join(sorted(constraints))} together"
        )
    for other, value in constraints.items():
        renamed["structured_outputs"] = {_CONSTRAINT_NAMES[other]: value}
    return renamed
