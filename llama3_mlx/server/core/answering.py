"""From settings to what a model is asked, and from its pieces to events; shared by chats and continuations."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ...generation.completion import Completion, TokenLogprob
from ...tokenizer.tokenizer import Tokenizer
from ..settings import ServerSettings
from .events import Call, Chance, End, Event, Reason, Text
from .served import Ask, Replies, Served


async def as_events(replies: Replies, asks: Sequence[Ask], served: Served) -> AsyncIterator[Event]:
    """Yield the events of replies to `asks` as their pieces come."""
    called = [0] * len(asks)
    tokenizer = served.llama.tokenizer
    async for index, item in replies:
        if isinstance(item, Completion):
            ask = asks[index]
            yield End(index, _reason(item), item, ask.prompt, _stop_text(item, ask, served))
            continue
        chances = tuple(chance_of(entry, tokenizer) for entry in item.logprobs)
        if item.text or chances:
            yield Text(index, item.text, chances)
        for call in item.tool_calls:
            yield Call(index, called[index], call.name, call.arguments)
            called[index] += 1


def chance_of(entry: TokenLogprob, tokenizer: Tokenizer) -> Chance:
    """Return a token's log-probability with the token's own bytes, a control token's as its text."""

    def data(token: int) -> bytes:
        return tokenizer.token_bytes(token) or (tokenizer.control_text(token) or "").encode()

    others = tuple(Chance(token, data(token), logprob) for token, logprob in entry.alternatives)
    return Chance(entry.token, data(entry.token), entry.logprob, others)


def _reason(done: Completion) -> Reason:
    if done.tool_calls:
        return "tool_calls"
    return "stop" if done.finish_reason == "stop" else "length"


def with_form(
    settings: Mapping[str, Any], schema: Mapping[str, Any] | None, top_logprobs: int | None
) -> dict[str, Any]:
    """Return the settings with the form that the answer has to have and the log-probabilities that are wanted."""
    form = {} if schema is None else {"schema": dict(schema)}
    return {**settings, **form, **({} if top_logprobs is None else {"logprobs": top_logprobs})}


def make_asks(
    prompts: Sequence[Sequence[int]], n: int, settings: Mapping[str, Any], at_most: int | None, limits: ServerSettings
) -> list[Ask]:
    """Return `n` asks for each prompt, those of one prompt together, within the server's limit on an answer's length.

    What a request asks for by `max_tokens` must fit the context; the other limits end an answer where it doesn't.
    """
    asked = settings.get("max_tokens")
    if limits.max_tokens is not None and asked is not None:
        settings = {**settings, "max_tokens": min(asked, limits.max_tokens)}
    ends = [most for most in (at_most, limits.max_tokens) if most is not None]
    most = min(ends, default=None)
    return [
        Ask(prompt=prompt, settings=seeded(settings, index), at_most=most) for prompt in prompts for index in range(n)
    ]


def seeded(settings: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return the settings of the answer `index`: each gets a seed of its own out of the one that was asked for."""
    seed = settings.get("seed")
    return dict(settings) if seed is None or not index else {**settings, "seed": (seed + index) % 2**64}


def _stop_text(completion: Completion, ask: Ask, served: Served) -> str | None:
    """Return the stop text that ended the answer: it stands in the tokens after the text that was given out."""
    stops = ask.settings.get("stop") or ()
    if completion.finish_reason != "stop" or not stops:
        return None
    whole = served.llama.tokenizer.decode(completion.token_ids, control=False)
    rest = whole[len(completion.text) :]
    return next((stop for stop in stops if rest.startswith(stop)), None)
