"""What a caller can ask of a generation: each setting once, with its help; flags and request fields come from here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from .errors import RequestError


def setting(default: Any, text: str, **limits: Any) -> Any:
    """Declare a field with its help text and its inclusive limits `low` and `high`."""
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Settings of one generation. None: what the checkpoint's generation_config.json says, else no limit or greedy."""

    max_tokens: int | None = setting(None, "tokens to write at most (default: until the model stops)", low=0)
    temperature: float | None = setting(None, "0 takes the likeliest token; higher is freer", low=0, high=100)
    top_p: float | None = setting(None, "sample from the likeliest tokens of this total probability", low=0, high=1)
    top_k: int | None = setting(None, "sample from this many likeliest tokens (0: all)", low=0)
    min_p: float = setting(0.0, "leave out tokens less likely than this share of the likeliest", low=0, high=1)
    repetition_penalty: float | None = setting(
        None, "divide the scores of recent tokens by this (1: off)", low=0.01, high=100
    )
    repetition_window: int = setting(64, "how many tokens count as recent", low=1)
    seed: int | None = setting(None, "same seed, same text", low=0, high=2**64 - 1)
    stop: tuple[str, ...] = setting((), "stop before this text; may be given several times")

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        problems = [problem for entry in fields(self) if (problem := self._problem(entry.name, entry.metadata))]
        if problems:
            raise RequestError("; ".join(problems))
        object.__setattr__(self, "stop", tuple(self.stop))

    def _problem(self, name: str, limits: Mapping[str, Any]) -> str | None:
        value = getattr(self, name)
        if name == "stop":
            whole = isinstance(value, list | tuple) and all(isinstance(text, str) and text for text in value)
            return None if whole else f"stop must be one or several texts that aren't empty, not {value!r}"
        if value is None:
            return None
        kind = int if name in _WHOLE else int | float
        if isinstance(value, bool) or not isinstance(value, kind):
            return f"{name} must be a {'whole ' if kind is int else ''}number, not {value!r}"
        low, high = limits.get("low"), limits.get("high")
        if not ((low is None or value >= low) and (high is None or value <= high)):
            accepted = f"at least {low}" if high is None else f"from {low} to {high}"
            return f"{name} must be {accepted}, not {value!r}"
        return None

    def with_defaults(self, defaults: Mapping[str, Any]) -> "GenerationOptions":
        """Fill what is None from `defaults`: the content of a generation_config.json.

        A checkpoint whose `do_sample` isn't true is greedy unless a temperature is asked for.
        """
        values = dict(defaults)
        if not values.get("do_sample"):
            values = {"temperature": 0.0, "repetition_penalty": values.get("repetition_penalty")}
        values.setdefault("temperature", 1.0)
        known = ("temperature", "top_p", "top_k", "repetition_penalty")
        return replace(
            self,
            **{name: values[name] for name in known if getattr(self, name) is None and values.get(name) is not None},
        )


_WHOLE = ("max_tokens", "top_k", "repetition_window", "seed")


class Settings(TypedDict, total=False):
    """The fields of GenerationOptions as keyword arguments; a test holds the two together."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float
    repetition_penalty: float | None
    repetition_window: int
    seed: int | None
    stop: str | tuple[str, ...] | list[str]


def make_options(settings: Mapping[str, Any]) -> GenerationOptions:
    """Build the options from keyword arguments or a request's fields; raises RequestError on unknown names."""
    known = {entry.name for entry in fields(GenerationOptions)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise RequestError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return GenerationOptions(**settings)
