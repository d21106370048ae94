"""Settings to submissions, and pieces of a reply to events; shared by chats and completions."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ...generation.completion import Completion, TokenLogprob
from ...tokenizer.tokenizer import Tokenizer
from ..settings import ServerSettings
from .events import AnswerEnd, Event, LogprobEntry, Reason, TextDelta, ToolCallEvent
from .loaded_model import LoadedModel, Replies, Submission


async def as_events(replies: Replies, submissions: Sequence[Submission], loaded: LoadedModel) -> AsyncIterator[Event]:
    """Yield the events of replies to `submissions` as their pieces come."""
    called = [0] * len(submissions)
    tokenizer = loaded.llama.tokenizer
    async for index, item in replies:
        if isinstance(item, Completion):
            submission = submissions[index]
            yield AnswerEnd(index, _reason(item), item, submission.prompt, _stop_text(item, submission, loaded))
            continue
        logprobs = tuple(logprob_entry(entry, tokenizer) for entry in item.logprobs)
        if item.text or logprobs:
            yield TextDelta(index, item.text, logprobs)
        for call in item.tool_calls:
            yield ToolCallEvent(index, called[index], call.name, call.arguments)
            called[index] += 1


def logprob_entry(entry: TokenLogprob, tokenizer: Tokenizer) -> LogprobEntry:
    """Return a token's log-probability with the token's own bytes, a control token's as its text."""

    def data(token: int) -> bytes:
        return tokenizer.token_bytes(token) or (tokenizer.control_text(token) or "").encode()

    others = tuple(LogprobEntry(token, data(token), logprob) for token, logprob in entry.alternatives)
    return LogprobEntry(entry.token, data(entry.token), entry.logprob, others)


def _reason(done: Completion) -> Reason:
    if done.tool_calls:
        return "tool_calls"
    return "stop" if done.finish_reason == "stop" else "length"


def with_constraint(
    settings: Mapping[str, Any], schema: Mapping[str, Any] | None, top_logprobs: int | None
) -> dict[str, Any]:
    """Return the settings with the output constraint and the requested log-probabilities."""
    constraint = {} if schema is None else {"schema": dict(schema)}
    return {**settings, **constraint, **({} if top_logprobs is None else {"logprobs": top_logprobs})}


def make_submissions(
    prompts: Sequence[Sequence[int]], n: int, settings: Mapping[str, Any], at_most: int | None, limits: ServerSettings
) -> list[Submission]:
    """Return `n` submissions for each prompt, those of one prompt in a row, within the server's length limit.

    What a request gives as `max_tokens` must fit the context; the other limits end an answer where it doesn't.
    """
    requested = settings.get("max_tokens")
    if limits.max_tokens is not None and requested is not None:
        settings = {**settings, "max_tokens": min(requested, limits.max_tokens)}
    ends = [most for most in (at_most, limits.max_tokens) if most is not None]
    most = min(ends, default=None)
    return [
        Submission(prompt=prompt, settings=seeded(settings, index), at_most=most)
        for prompt in prompts
        for index in range(n)
    ]


def seeded(settings: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the settings of the answer `index`: each gets its own seed, derived from the requested one."""
    seed = settings.get("seed")
    return dict(settings) if seed is None or not index else {**settings, "seed": (seed + index) % 2**64}


def _stop_text(completion: Completion, submission: Submission, loaded: LoadedModel) -> str | None:
    """Return the stop text that ended the answer: it stands in the tokens after the text that was given out."""
    stops = submission.settings.get("stop") or ()
    if completion.finish_reason != "stop" or not stops:
        return None
    whole = loaded.llama.tokenizer.decode(completion.token_ids, control=False)
    rest = whole[len(completion.text) :]
    return next((stop for stop in stops if rest.startswith(stop)), None)
