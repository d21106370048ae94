"""What comes back from a chat or a completion, in no protocol's words."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...generation.completion import Completion
from ...json_types import JsonMapping, JsonObject

Reason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class LogprobEntry:
    """A token's text, bytes and log-probability, with the most likely alternatives in its place."""

    token_id: int
    data: bytes
    logprob: float
    alternatives: tuple["LogprobEntry", ...] = ()

    @property
    def text(self) -> str:
        """The token as text; U+FFFD stands for bytes that are no character of their own."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How much of a prompt has been run, in tokens; comes before any text, where it was requested."""

    choice: int
    processed: int
    total: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one answer; `logprobs` belong to the tokens that came in with it, where they were requested."""

    choice: int
    text: str
    logprobs: tuple[LogprobEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """A tool call of one answer, the `position`-th of it; the last one is unfinished where a limit cut it off."""

    choice: int
    position: int
    name: str
    arguments_json: str
    """The arguments as the JSON text of an object, only its beginning where the call is unfinished."""
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    @property
    def arguments(self) -> JsonObject | None:
        """The arguments, None where the call is unfinished."""
        try:
            value = json.loads(self.arguments_json)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


def as_json(arguments: JsonMapping) -> str:
    """Return arguments as OpenAI writes them: an object in JSON, as a string."""
    return json.dumps(arguments, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The end of one answer, and why."""

    choice: int
    reason: Reason
    completion: Completion
    prompt: Sequence[int] = ()
    stop_text: str | None = None
    refusal: str | None = None
    """Why a guard refused the request or stopped the answer, where the reason is "content_filter"."""

    @property
    def prompt_s(self) -> float:
        """The seconds that the prompt took, 0 where nothing of it was run."""
        done = self.completion
        run = done.prompt_tokens - done.cached_tokens
        return run / done.prompt_tokens_per_second if done.prompt_tokens_per_second else 0.0

    @property
    def decode_s(self) -> float:
        """The seconds from the first token to the last, 0 where there aren't two."""
        done = self.completion
        return (len(done.token_ids) - 1) / done.tokens_per_second if done.tokens_per_second else 0.0


Event = PromptProgress | TextDelta | ToolCallEvent | AnswerEnd


@dataclass
class CollectedAnswer:
    """One answer as it adds up from its events."""

    text: str = ""
    logprobs: list[LogprobEntry] = field(default_factory=list)
    calls: list[ToolCallEvent] = field(default_factory=list)
    end: AnswerEnd | None = None

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, TextDelta):
            self.text += event.text
            self.logprobs += event.logprobs
        elif isinstance(event, ToolCallEvent):
            self.calls.append(event)
        elif isinstance(event, AnswerEnd):
            self.end = event

    @property
    def reason(self) -> Reason:
        """Why it ended."""
        return self.end.reason if self.end else "length"

    @property
    def refusal(self) -> str | None:
        """Why a guard refused it, None if it didn't."""
        return self.end.refusal if self.end else None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: the prompt counted once, the answers added up."""

    prompt: int
    cached: int
    written: int


def usage(answers: Sequence[CollectedAnswer], n: int = 1) -> Usage:
    """Return the usage of answers of which `n` in a row have one prompt; it counts once."""
    ends = [answer.end.completion for answer in answers if answer.end]
    return Usage(
        prompt=sum(end.prompt_tokens for end in ends[::n]),
        cached=sum(end.cached_tokens for end in ends[::n]),
        written=sum(len(end.token_ids) for end in ends),
    )
