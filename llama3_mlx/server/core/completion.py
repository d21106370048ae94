"""Continuing texts in no protocol's words: prompts in, events out."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from ..settings import ServerSettings
from .answering import as_events, make_submissions, with_constraint
from .events import Event
from .loaded_model import LoadedModel

Prompt = str | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Prompts of which each wants `n` continuations; the answers to the first prompt come first."""

    prompts: Sequence[Prompt]
    settings: dict[str, Any] = field(default_factory=dict)
    n: int = 1
    schema: Mapping[str, Any] | None = None
    top_logprobs: int | None = None
    at_most: int | None = None
    """Tokens after which an answer ends, as max_tokens, but no promise that the context has room for them."""


def prompt_ids(prompt: Prompt, loaded: LoadedModel) -> list[int]:
    """Return the token ids of a prompt; a text gets the beginning-of-text token, ids are taken as they are."""
    return loaded.llama.prompts.text(prompt)


async def complete(
    asked: Continuation, loaded: LoadedModel, limits: ServerSettings, stack: AsyncExitStack
) -> AsyncIterator[Event]:
    """Start all continuations and return their events as they come; raises at once what is refused.

    What runs ends when `stack` does.
    """
    loaded.check_room(len(asked.prompts) * asked.n)
    prompts = await loaded.prepare(lambda: [prompt_ids(prompt, loaded) for prompt in asked.prompts])
    settings = with_constraint(asked.settings, asked.schema, asked.top_logprobs)
    submissions = make_submissions(prompts, asked.n, settings, asked.at_most, limits)
    replies = await loaded.start(submissions, limits.timeout_s)
    stack.callback(replies.close)
    return as_events(replies, submissions, loaded)
