"""A chat in no protocol's words: messages in, events out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from ...generation.options import GenerationOptions
from ...json_types import JsonMapping, JsonObject
from ...prompts import RESERVED
from ..http.errors import ApiError
from .answering import make_submissions, start_answers
from .events import Event
from .loaded_model import LoadedModel
from .request_context import RequestContext

_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A dialog that wants `n` answers with these options; tools are specifications, a schema is one of JSON."""

    messages: Sequence[JsonMapping]
    options: GenerationOptions = field(default_factory=GenerationOptions)
    n: int = 1
    continue_final: bool = False
    add_generation_prompt: bool = True
    progress: bool = False
    """Whether events tell how much of the prompt has been run."""


def prompt_of(chat: Chat, loaded: LoadedModel) -> list[int]:
    """Return the token ids of the dialog up to where the answer begins."""
    if loaded.llama.dialog is None:
        raise ApiError(
            400,
            f"{loaded.choice.model.name} is a base model without a dialog format: use /v1/completions",
            code="no_dialog_format",
        )
    taken = sorted(set(RESERVED) & set(chat.options.template_options))
    if taken:
        raise ApiError(
            400,
            f"chat_template_kwargs can't set {', '.join(taken)}: these come from the request's own fields",
            param="chat_template_kwargs",
        )
    return loaded.llama.prompts.chat(
        [known_keys(message) for message in chat.messages],
        tools=chat.options.tools if chat.options.calls_tools else (),
        template_options=chat.options.template_options,
        add_generation_prompt=chat.add_generation_prompt,
        continue_final=chat.continue_final,
    )


def known_keys(message: JsonMapping) -> JsonObject:
    """Return a message without the keys that clients send along and no dialog format has a place for."""
    return {key: message[key] for key in _MESSAGE_KEYS if message.get(key) is not None}


async def converse(
    chat: Chat, context: RequestContext, *, streamed: bool, prompt: Sequence[int] | None = None
) -> AsyncIterator[Event]:
    """Start all answers to a chat and return their events as they come; raises at once what is refused.

    `prompt` is the chat's where it is known already. What runs ends when the context does.
    """
    loaded = context.loaded
    loaded.check_room(chat.n)
    if prompt is None:
        prompt = await loaded.prepare(lambda: prompt_of(chat, loaded))
    settings = context.server.settings
    submissions = make_submissions([prompt], chat.n, chat.options, settings, progress=chat.progress)
    return await start_answers(submissions, [chat.messages] * chat.n, context, streamed=streamed)
