"""Continuing texts in no protocol's words: prompts in, events out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from ...generation.options import GenerationOptions
from .answering import make_submissions, start_answers
from .events import Event
from .loaded_model import LoadedModel
from .request_context import RequestContext

Prompt = str | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Prompts of which each wants `n` continuations; the answers to the first prompt come first."""

    prompts: Sequence[Prompt]
    options: GenerationOptions = field(default_factory=GenerationOptions)
    n: int = 1
    parse_special: bool | None = None
    """Whether control tokens in a text are recognized; None: what the server's settings say."""


def prompt_ids(prompt: Prompt, loaded: LoadedModel, *, parse_special: bool = False) -> list[int]:
    """Return the token ids of a prompt; a text gets the beginning-of-text token, ids are taken as they are."""
    return loaded.llama.prompts.text(prompt, special=parse_special)


def text_ids(text: str, loaded: LoadedModel, *, bos: bool, parse_special: bool) -> list[int]:
    """Return the token ids of a text, every character of it ordinary unless control tokens are to be recognized."""
    return loaded.llama.prompts.text(text, special=parse_special, bos=bos)


async def complete(continuation: Continuation, context: RequestContext, *, streamed: bool) -> AsyncIterator[Event]:
    """Start all continuations and return their events as they come; raises at once what is refused.

    A guard reads a prompt as what a user says. What runs ends when the context does.
    """
    loaded, limits = context.loaded, context.server.settings
    loaded.check_room(len(continuation.prompts) * continuation.n)
    special = limits.parse_special if continuation.parse_special is None else continuation.parse_special
    prompts = await loaded.prepare(
        lambda: [prompt_ids(prompt, loaded, parse_special=special) for prompt in continuation.prompts]
    )
    submissions = make_submissions(prompts, continuation.n, continuation.options, limits)
    decode = loaded.llama.tokenizer.decode
    texts = [
        prompt if isinstance(prompt, str) else decode(list(prompt), control=False) for prompt in continuation.prompts
    ]
    dialogs = [[{"role": "user", "content": text}] for text in texts for _ in range(continuation.n)]
    return await start_answers(submissions, dialogs, context, streamed=streamed)
