"""What a caller can ask of a generation: each setting once, with its help; flags and request fields come from here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from ..errors import RequestError


def setting(default: Any, text: str, **limits: Any) -> Any:
    """Declare a field with its help text and its inclusive limits `low` and `high`; `flag=False` keeps it off flags."""
    if isinstance(default, dict):
        return field(default_factory=dict, metadata={"help": text, **limits})
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Settings of one generation. None: what the checkpoint's generation_config.json says, else no limit or greedy."""

    max_tokens: int | None = setting(None, "tokens to write at most (default: until the model stops)", low=0)
    temperature: float | None = setting(None, "0 takes the likeliest token; higher is freer", low=0, high=100)
    top_p: float | None = setting(None, "sample from the likeliest tokens of this total probability", low=0, high=1)
    top_k: int | None = setting(None, "sample from this many likeliest tokens (0: all)", low=0)
    min_p: float = setting(0.0, "leave out tokens less likely than this share of the likeliest", low=0, high=1)
    typical_p: float = setting(
        1.0, "sample from the tokens of average surprise that have this total probability", low=0, high=1
    )
    xtc_probability: float = setting(0.0, "leave out the likeliest tokens in this share of the steps", low=0, high=1)
    xtc_threshold: float = setting(
        0.1, "with --xtc-probability: tokens from this probability on, but the least of them", low=0, high=1
    )
    repetition_penalty: float | None = setting(
        None, "divide the scores of recent tokens by this (1: off)", low=0.01, high=100
    )
    repetition_window: int = setting(64, "how many tokens count as recent", low=1)
    presence_penalty: float = setting(0.0, "lower the scores of tokens that were written by this", low=-100, high=100)
    frequency_penalty: float = setting(0.0, "lower them by this for each time they were written", low=-100, high=100)
    logit_bias: Mapping[int, float] = setting({}, "add to the scores of tokens, by token id", flag=False)
    seed: int | None = setting(None, "same seed, same text", low=0, high=2**64 - 1)
    stop: tuple[str, ...] = setting((), "stop before this text; may be given several times")
    ignore_eos: bool = setting(False, "write on behind the model's own stop tokens")
    logprobs: int | None = setting(
        None, "log-probability of each token and of this many alternatives", low=0, high=64, flag=False
    )
    prompt_logprobs: int | None = setting(None, "the same for the prompt's tokens", low=0, high=64, flag=False)
    schema: object = setting(None, "JSON schema, pydantic model or dataclass of the answer", flag=False)
    regex: str | None = setting(None, "regular expression that the whole answer matches")
    grammar: str | None = setting(None, "Lark grammar of the answer", flag=False)
    choices: tuple[str, ...] = setting((), "the answer is one of these texts; may be given several times")
    tools: Sequence[Any] = setting((), "functions or specifications that the answer may call", flag=False)
    tool_choice: object = setting("auto", "auto, required, none or the name of a tool", flag=False)
    parallel_calls: bool = setting(True, "several calls in one answer", flag=False)
    speculate: bool = setting(True, "draft tokens ahead: by the draft model if there is one, else from the text so far")
    adapter: str | None = setting(None, "name of the adapter that answers, of those that were loaded", flag=False)
    timeout_s: float | None = setting(None, "end the answer after this many seconds", low=0)
    priority: int = setting(0, "where requests wait, higher ones go first", flag=False)

    def __post_init__(self) -> None:
        for name in ("stop", "choices"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        problems = [problem for entry in fields(self) if (problem := self._problem(entry.name, entry.metadata))]
        forms = [name for name in _FORMS if getattr(self, name) not in (None, ())]
        if not isinstance(self.tools, list | tuple):
            problems.append(f"tools must be a list of functions or specifications, not {self.tools!r:.80}")
        elif self.calls_tools and forms:
            forms.append("tools")
        if len(forms) > 1:
            problems.append(f"{' and '.join(forms)} can't be asked for together: one form at a time")
        if problems:
            raise RequestError("; ".join(problems))
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "choices", tuple(self.choices))
        object.__setattr__(self, "logit_bias", {int(token): float(bias) for token, bias in self.logit_bias.items()})

    @property
    def is_constrained(self) -> bool:
        """Whether the answer has a form that it must follow."""
        return self.calls_tools or any(getattr(self, name) not in (None, ()) for name in _FORMS)

    @property
    def calls_tools(self) -> bool:
        """Whether the answer may call tools."""
        return bool(self.tools) and self.tool_choice != "none"

    def _problem(self, name: str, limits: Mapping[str, Any]) -> str | None:
        value = getattr(self, name)
        if name in ("stop", "choices"):
            whole = isinstance(value, list | tuple) and all(isinstance(text, str) and text for text in value)
            return None if whole else f"{name} must be one or several texts that aren't empty, not {value!r}"
        if name == "logit_bias":
            return _bias_problem(value)
        if value is None or name in ("schema", "tools", "tool_choice"):
            return None
        if name in _TEXTS:
            return (
                None if isinstance(value, str) and value else f"{name} must be a text that isn't empty, not {value!r}"
            )
        if name in _SWITCHES:
            return None if isinstance(value, bool) else f"{name} must be true or false, not {value!r}"
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


def _bias_problem(value: Any) -> str | None:
    """Say what is wrong with a logit bias: a mapping from token ids, as numbers or their decimal texts, to numbers."""
    if not isinstance(value, Mapping):
        return f"logit_bias must map token ids to numbers, not {value!r}"
    for token, bias in value.items():
        whole = not isinstance(token, bool) and (
            isinstance(token, int) or (isinstance(token, str) and token.isdecimal())
        )
        if not whole or isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            return f"logit_bias must map token ids to numbers from -100 to 100, not {token!r} to {bias!r}"
    return None


_WHOLE = ("max_tokens", "top_k", "repetition_window", "seed", "logprobs", "prompt_logprobs", "priority")
_TEXTS = ("regex", "grammar", "adapter")
_SWITCHES = ("ignore_eos", "speculate", "parallel_calls")
_FORMS = ("schema", "regex", "grammar", "choices")


class Settings(TypedDict, total=False):
    """The fields of GenerationOptions as keyword arguments; a test holds the two together."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float
    typical_p: float
    xtc_probability: float
    xtc_threshold: float
    repetition_penalty: float | None
    repetition_window: int
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop: str | tuple[str, ...] | list[str]
    ignore_eos: bool
    logprobs: int | None
    prompt_logprobs: int | None
    schema: Any
    regex: str | None
    grammar: str | None
    choices: str | tuple[str, ...] | list[str]
    tools: Sequence[Any]
    tool_choice: Any
    parallel_calls: bool
    speculate: bool
    adapter: str | None
    timeout_s: float | None
    priority: int


def make_options(settings: Mapping[str, Any]) -> GenerationOptions:
    """Build the options from keyword arguments or a request's fields; raises RequestError on unknown names."""
    known = {entry.name for entry in fields(GenerationOptions)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise RequestError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return GenerationOptions(**settings)
