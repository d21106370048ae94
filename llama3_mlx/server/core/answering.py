"""Settings to submissions, and pieces of a reply to events; shared by chats and completions."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from ...generation.completion import Completion, TokenLogprob
from ...generation.options import GenerationOptions
from ...json_types import JsonMapping
from ...tokenizer.tokenizer import Tokenizer
from ...tools.unfinished import may_begin_call
from ..settings import ServerSettings
from .code_shield import shielded
from .content_guard import ContentGuard
from .events import AnswerEnd, Event, LogprobEntry, PromptProgress, Reason, TextDelta, ToolCallEvent, as_json
from .loaded_model import LoadedModel, Replies, Submission
from .request_context import RequestContext

Dialog = Sequence[JsonMapping]


async def start_answers(
    submissions: Sequence[Submission], dialogs: Sequence[Dialog], context: RequestContext, *, streamed: bool
) -> AsyncIterator[Event]:
    """Start to generate and return the events as they come, past the guard and the shield where the server has them.

    `dialogs` are the messages that each submission answers. A refused request gets answers that have ended already.
    What runs ends when the context does. Raises at once what is refused, ApiError where the guard fails.
    """
    loaded, server = context.loaded, context.server
    settings, metrics = server.settings, server.metrics
    guard = None if context.guard is None else ContentGuard(context.guard, metrics, dialogs)
    if guard is not None:
        context.stack.callback(guard.observe)
        if settings.guard_on != "output":
            refusal = await guard.refuse_input()
            if refusal is not None:
                return _refused(submissions, refusal)
    replies = await loaded.start(submissions, settings.timeout_s)
    context.stack.callback(replies.close)
    events = as_events(replies, submissions, loaded)
    if guard is not None and settings.guard_on != "input":
        events = guard.guarded(events, replies.cancel, settings.guard_every if streamed else None)
        if submissions[0].options.logprobs or submissions[0].options.prompt_logprobs:
            context.notes.append("log-probabilities come without alternatives, which the guard doesn't judge")
    # A note within an answer that is held to a form would break the form.
    if server.shield is not None and settings.shield is not None and not submissions[0].options.is_constrained:
        events = shielded(
            events, len(submissions), server.shield, "block" if settings.shield == "block" else "annotate", metrics
        )
    return events


async def _refused(submissions: Sequence[Submission], refusal: str) -> AsyncIterator[Event]:
    for index, submission in enumerate(submissions):
        nothing = Completion("", (), "stop", len(submission.prompt), 0, 0.0, 0.0, 0)
        yield AnswerEnd(index, "content_filter", nothing, refusal=refusal)


async def as_events(replies: Replies, submissions: Sequence[Submission], loaded: LoadedModel) -> AsyncIterator[Event]:
    """Yield the events of replies to `submissions` as their pieces come."""
    called = [0] * len(submissions)
    # The last text of an answer that calls tools: if a limit ends the answer there, it is the beginning of a call.
    held: list[TextDelta | None] = [None] * len(submissions)
    tokenizer = loaded.llama.tokenizer
    async for index, item in replies:
        if isinstance(item, PromptProgress):
            yield item
            continue
        before, held[index] = held[index], None
        submission = submissions[index]
        if isinstance(item, Completion):
            call = item.unfinished_call
            if before is not None and (call is None or before.logprobs):
                yield TextDelta(index, "" if call else before.text, before.logprobs)
            if call is not None and call.name:
                yield ToolCallEvent(index, called[index], call.name, call.arguments_json)
            reason = _reason(item, calls=bool(called[index]))
            yield AnswerEnd(index, reason, item, submission.prompt, _stop_text(item, submission, loaded))
            continue
        if before is not None:
            yield before
        logprobs = tuple(logprob_entry(entry, tokenizer) for entry in item.logprobs)
        if item.text or logprobs:
            text = TextDelta(index, item.text, logprobs)
            if submission.options.calls_tools and may_begin_call(item.text):
                held[index] = text
            else:
                yield text
        for tool_call in item.tool_calls:
            yield ToolCallEvent(index, called[index], tool_call.name, as_json(tool_call.arguments))
            called[index] += 1


def logprob_entry(entry: TokenLogprob, tokenizer: Tokenizer) -> LogprobEntry:
    """Return a token's log-probability with the token's own bytes, a control token's as its text."""

    def data(token: int) -> bytes:
        return tokenizer.token_bytes(token) or (tokenizer.control_text(token) or "").encode()

    others = tuple(LogprobEntry(token, data(token), logprob) for token, logprob in entry.alternatives)
    return LogprobEntry(entry.token, data(entry.token), entry.logprob, others)


def _reason(done: Completion, *, calls: bool) -> Reason:
    if done.finish_reason != "stop":
        return "length"
    return "tool_calls" if calls else "stop"


def make_submissions(
    prompts: Sequence[Sequence[int]],
    n: int,
    options: GenerationOptions,
    limits: ServerSettings,
    *,
    progress: bool = False,
) -> list[Submission]:
    """Return `n` submissions for each prompt, those of one prompt in a row, within the server's length limit.

    `max_tokens` may be more than the context leaves, where an answer then ends.
    """
    ends = [limit for limit in (options.max_tokens, limits.max_tokens) if limit is not None]
    others = replace(options, max_tokens=None)
    return [
        Submission(prompt=prompt, options=seeded(others, index), max_tokens=min(ends, default=None), progress=progress)
        for prompt in prompts
        for index in range(n)
    ]


def seeded(options: GenerationOptions, index: int) -> GenerationOptions:
    """Return the options of the answer `index`: each gets its own seed, derived from the requested one."""
    if options.seed is None or not index:
        return options
    return replace(options, seed=(options.seed + index) % 2**64)


def _stop_text(completion: Completion, submission: Submission, loaded: LoadedModel) -> str | None:
    """Return the stop text that ended the answer: it stands in the tokens after the text that was given out."""
    stops = submission.options.stop
    if completion.finish_reason != "stop" or not stops:
        return None
    whole = loaded.llama.tokenizer.decode(completion.token_ids, control=False)
    rest = whole[len(completion.text) :]
    return next((stop for stop in stops if rest.startswith(stop)), None)
