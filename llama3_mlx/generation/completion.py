"""What a generation gives back: pieces while it runs, a completion when it has ended."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal

from ..tools.call import ToolCall
from ..tools.unfinished import UnfinishedCall

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Parsed_co = TypeVar("Parsed_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    Parsed_co = TypeVar("Parsed_co", covariant=True)

FinishReason = Literal["stop", "length", "cancelled", "timeout"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithm of a token's probability by the model itself, before temperature and penalties.

    `alternatives` are the most likely tokens at this position with theirs, in that order, as many as were requested.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of a generation and the tokens that came in since the piece before."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that are whole with this piece, where tools were given."""


@dataclass(frozen=True, slots=True)
class DraftCounts:
    """What came of the drafts of one source: "prompt lookup", "draft head" or "draft model".

    By position, the first drafted token first: how many drafts had a token there, and how many of those were accepted.
    """

    source: str
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """The share of accepted tokens by position."""
        return tuple(kept / tried for kept, tried in zip(self.accepted, self.drafted, strict=True))


@dataclass(frozen=True, slots=True)
class Completion(Generic[Parsed_co]):
    """A finished generation. `token_ids` are the generated tokens without the stop token; `text` leaves calls out.

    `finish_reason` is "stop" for a stop token, a stop text or an output constraint that is complete, "length" for the
    limit, "timeout" and "cancelled" for an end from outside. Rates are tokens a second; the prompt's counts the tokens
    that were run (`prompt_tokens` less `cached_tokens`). `prompt_logprobs` begin with the prompt's second token.
    `parsed` is the object of the given schema, None where the answer ended before it was complete. `passes` counts the
    forward passes that generated the tokens, fewer than tokens where drafts were accepted; `drafts` says of which.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    prompt_tokens_per_second: float
    tokens_per_second: float
    peak_memory_bytes: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    parsed: Parsed_co = None  # type: ignore[assignment]
    tool_calls: tuple[ToolCall, ...] = ()
    passes: int = 0
    drafts: tuple[DraftCounts, ...] = ()
    passes_off: int = 0
    """Forward passes during which the draft model or head was switched off, because its drafts didn't pay."""
    first_token_s: float = 0.0
    stop_token: int | None = None
    """The token of the model's own that ended the answer."""
    unfinished_call: UnfinishedCall | None = None
    """The tool call within which a limit ended the answer; `text` leaves it out, pieces have it as text."""
