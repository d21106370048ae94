"""What the request bodies of all protocols share: null counts as absent, wrong types are refused.

Every field of a protocol is one of three things: honored (a declared field), without effect (it can't change an answer
here: billing, caching, tracing), or refused, because it would change the answer and can't be honored. Fields without
effect and fields that no list names are accepted and named in the header `x-ignored-parameters`.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from ...generation.options import GenerationOptions, make_options
from ...json_types import JsonMapping, JsonObject
from ...settings import Setting, settings_of

KeepAlive = float | str | None
Effect = Literal["honored", "without effect", "refused"]
# -1 is what llama.cpp's and Ollama's clients send for "no limit" and "all".
TokenLimit = Annotated[
    int,
    Field(ge=-1, description="maximum tokens of an answer, which ends with its context anyway; -1: no other limit"),
]
TopK = Annotated[int, Field(ge=-1, description="sample from this many most likely tokens (0 or -1: all)")]


def refusal(name: str, message: str) -> PydanticCustomError:
    """Return the error of a body in which the field `name` can't be honored."""
    return PydanticCustomError("refused", "{message}", {"name": name, "message": message})


class Body(BaseModel):
    """A request's body, or a part of it."""

    model_config = ConfigDict(strict=True, extra="allow")
    refused: ClassVar[Mapping[str, str]] = {}
    """Fields that would change the answer and can't be honored, each with what to do instead."""
    harmless: ClassVar[Mapping[str, tuple[object, ...]]] = {}
    """Values of refused fields that ask for nothing, beside null, false, 0 and what is empty."""
    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Fields of the protocol that can't change an answer here."""

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        extra = self.model_extra or {}
        for name, advice in _inherited(type(self), "refused").items():
            value = extra.get(name)
            if value in (None, False, "", [], {}) or value in _inherited(type(self), "harmless").get(name, ()):
                continue
            raise refusal(name, f"{name} is not supported: {advice}")
        return self

    @classmethod
    def effect(cls, name: str) -> Effect | None:
        """Say what becomes of a field of the protocol; None if it is unknown here."""
        fields = cls.model_fields
        if name in fields or name in {field.alias for field in fields.values()}:
            return "honored"
        if name in _inherited(cls, "refused"):
            return "refused"
        return "without effect" if any(name in _own(base, "without_effect") for base in cls.__mro__) else None

    def ignored(self) -> list[str]:
        """Return the fields that were sent and have no effect, by their paths."""
        extra = self.model_extra or {}
        refused = _inherited(type(self), "refused")
        names = [name for name, value in extra.items() if value is not None and name not in refused]
        inner = (path for name in type(self).model_fields for path in _ignored(getattr(self, name), name))
        return sorted([*names, *inner])


def _own(base: type, name: str) -> Any:
    return base.__dict__.get(name, ())


@cache
def _inherited(body: type[Body], name: str) -> JsonMapping:
    """Return what a class and those it inherits from list under `name`, together."""
    return {key: value for base in reversed(body.__mro__) for key, value in dict(_own(base, name)).items()}


def _ignored(value: object, path: str) -> Iterator[str]:
    """Yield the paths of ignored fields inside a field's value; of the items of a list all have one path."""
    if isinstance(value, Body):
        yield from (f"{path.rstrip('_')}.{inner}" for inner in value.ignored())
    elif isinstance(value, list):
        yield from {inner for item in value for inner in _ignored(item, path)}


def option(name: str) -> Any:
    """Return the field of a generation setting, its text and limits taken from GenerationOptions."""
    declared = settings_of(GenerationOptions)[name]
    return Field(default=None, description=declared.help, ge=declared.low, le=declared.high)


def _generation_fields() -> JsonObject:
    """Return the fields of a body for the settings that requests take by their own names."""
    return {
        name: (_body_type(declared) | None, Field(None, description=declared.help, ge=declared.low, le=declared.high))
        for name, declared in settings_of(GenerationOptions).items()
        if declared.request is True
    }


def _body_type(declared: Setting) -> Any:
    """Return a setting's type as JSON has it: several values are a list, or one by itself; keys are texts."""
    if get_origin(declared.kind) is Mapping:
        return dict[str, get_args(declared.kind)[1]]  # type: ignore[misc]
    several: Any = list
    return declared.kind if declared.item is None else declared.item | several[declared.item]


GenerationFields = create_model("GenerationFields", __base__=Body, **_generation_fields())
"""A body with every generation setting that requests take by its own name."""


def given_settings(body: Body) -> JsonObject:
    """Return the generation settings that a body gives by their own names; null and what is empty count as absent."""
    declared = settings_of(GenerationOptions)
    values = {name: getattr(body, name, None) for name, entry in declared.items() if entry.request is True}
    return {name: value for name, value in values.items() if value not in (None, [], {})}


def options_of(
    settings: JsonMapping,
    *,
    schema: JsonMapping | None = None,
    top_logprobs: int | None = None,
    tools: Sequence[JsonMapping] = (),
    tool_choice: str = "auto",
    parallel_calls: bool = True,
    template: JsonMapping | None = None,
) -> GenerationOptions:
    """Return the options that a body gives: settings by their names, and what each protocol shapes in its own way.

    An empty `schema` means any JSON. Raises RequestError.
    """
    more = {"schema": schema, "logprobs": top_logprobs, "template_options": template}
    given: JsonObject = {name: value for name, value in more.items() if value is not None}
    if tools:
        given |= {"tools": list(tools), "tool_choice": tool_choice, "parallel_calls": parallel_calls}
    return make_options({**settings, **given})


def without_sentinels(settings: JsonMapping) -> JsonObject:
    """Return the settings without the numbers that other servers' clients send for "no limit", "all" and "random"."""
    known = {name: value for name, value in settings.items() if not (name in ("max_tokens", "seed") and value == -1)}
    return {**known, "top_k": 0} if known.get("top_k") == -1 else known
