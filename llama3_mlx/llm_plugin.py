"""A plugin for the `llm` command: `llm -m llama3-mlx:NAME`, for every model on this machine.

Source: https://llm.datasette.io/en/stable/plugins/advanced-model-plugins.html.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import llm
from pydantic import Field, create_model

from .generation.options import GenerationOptions
from .json_types import JsonObject
from .library.catalogue import Catalogue
from .settings import settings_of

PREFIX = "llama3-mlx:"


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Tell `llm` of every model, and of every adapter over it."""
    catalogue = Catalogue({}, {})
    for model in catalogue.models().values():
        register(LocalLlama(f"{PREFIX}{model.name}", model.folder, None))
        for name, folder in catalogue.adapters(model).items():
            register(LocalLlama(f"{PREFIX}{model.name}:{name}", model.folder, folder))


def _options() -> type[llm.Options]:
    """Return the generation settings as `llm` takes options; those that hold several values take one."""
    given: JsonObject = {
        name: ((declared.item or declared.kind) | None, Field(default=None, description=declared.help))
        for name, declared in settings_of(GenerationOptions).items()
        if declared.flag and isinstance(declared.item or declared.kind, type)
    }
    return create_model("Options", __base__=llm.Options, **given)


class LocalLlama(llm.Model):
    """A model of the Llama family in `llm`."""

    can_stream = True
    supports_schema = "schema" in GenerationOptions.__dataclass_fields__
    Options = _options()  # type: ignore[assignment]

    def __init__(self, model_id: str, folder: Path, adapter: Path | None) -> None:
        self.model_id, self._folder, self._adapter = model_id, folder, adapter

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """Yield the answer's text as it comes."""
        settings = prompt.options.model_dump(exclude_none=True)
        if prompt.schema:
            settings["schema"] = prompt.schema
        pieces = _load(self._folder, self._adapter).stream_chat(messages_of(prompt, conversation), **settings)
        if stream:
            yield from (piece.text for piece in pieces)
        else:
            yield "".join(piece.text for piece in pieces)
        done = pieces.completion
        response.set_usage(input=done.prompt_tokens, output=len(done.token_ids))


def messages_of(prompt: llm.Prompt, conversation: llm.Conversation | None) -> list[dict[str, str]]:
    """Return the dialog up to `prompt`."""
    messages: list[dict[str, str]] = []
    earlier: list[Any] = list(conversation.responses) if conversation else []
    for said, answer in [*((r.prompt, r.text_or_raise()) for r in earlier), (prompt, None)]:
        if said.system and not any(m["role"] == "system" and m["content"] == said.system for m in messages):
            messages.append({"role": "system", "content": said.system})
        messages.append({"role": "user", "content": said.prompt or ""})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


@lru_cache(maxsize=1)
def _load(folder: Path, adapter: Path | None) -> Any:
    from .llama import Llama

    return Llama.load(folder, adapter=adapter)
