"""One generating request from its arrival to its last byte: its model, its counts, its end when the client goes."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...json_types import JsonMapping, JsonValue
from ...safety.shield import Shield
from ..http.metrics import Metrics
from ..http.streaming import STREAM_HEADERS
from ..settings import ServerSettings
from .durations import duration_s
from .events import AnswerEnd, CollectedAnswer, Event, PromptProgress
from .loaded_model import LoadedModel
from .loaded_models import LoadedModels

T = TypeVar("T")
CLIENT_GONE = 499


@dataclass(frozen=True)
class Server:
    """What all requests share; `app.state.server`."""

    settings: ServerSettings
    models: LoadedModels
    metrics: Metrics
    shield: Shield | None = None
    """What scans the code of answers, where that is wanted."""


class ClientGoneError(Exception):
    """The client closed the connection before its answer was ready."""


class RequestContext:
    """A request that uses a model. Leaving its `async with` lets go of the model and cancels what still runs."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.server: Server = request.app.state.server
        self.stack = AsyncExitStack()
        self.began: float = request.state.began
        self.headers: dict[str, str] = {}
        self.notes: list[str] = []
        """What the client should know about its answer: what was left out, and why."""
        self.loaded: LoadedModel
        self.guard: LoadedModel | None = None
        """The model that judges requests and answers, if there is one."""
        self.load_s = 0.0
        self._first_seen = False

    async def __aenter__(self) -> "RequestContext":
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.stack.aclose()

    async def use(self, model: str | None, keep_alive: float | str | None = None) -> LoadedModel:
        """Return the model, loaded, for as long as this request lasts."""
        keep_alive_s = duration_s(keep_alive)
        began = time.perf_counter()
        # Before the model, which must find room beside it.
        self.guard = await self.stack.enter_async_context(self.server.models.use_guard())
        self.loaded = await self.stack.enter_async_context(self.server.models.use(model, keep_alive_s))
        self.load_s = time.perf_counter() - began
        self.log_values(model=self.loaded.choice.name)
        return self.loaded

    async def use_guard(self) -> LoadedModel:
        """Return the server's guard, loaded, for as long as this request lasts; the server must have one."""
        loaded = await self.stack.enter_async_context(self.server.models.use_guard())
        assert loaded is not None, "the server has a guard"
        self.loaded = loaded
        self.log_values(model=loaded.choice.name)
        return loaded

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.began

    def ignore(self, names: list[str]) -> None:
        """Tell the client which of the fields it sent mean nothing here."""
        if names:
            shown = [_printable(name)[:60] for name in names[:20]]
            self.headers["x-ignored-parameters"] = ", ".join(shown).strip()

    def leave_out_tools(self, names: Sequence[str]) -> None:
        """Note which tools of the request can't be used here."""
        if names:
            self.notes.append(f"tools that can't be used here were left out: {', '.join(names)}")

    def extension(self) -> dict[str, list[str]]:
        """Return the field with the notes that goes into an answer, beside those of its protocol; the header, too."""
        if not self.notes:
            return {}
        self.headers["x-notes"] = _printable("; ".join(self.notes))[:1000].strip()
        return {"notes": self.notes}

    def log_values(self, **values: JsonValue) -> None:
        """Add values to the request's line in the log."""
        self.request.state.log.update(values)

    async def counted(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """Pass the events on and count them."""
        async for event in events:
            if not self._first_seen and not isinstance(event, AnswerEnd | PromptProgress):
                self._first_seen = True
                waited = time.perf_counter() - self.began
                self.server.metrics.first_token.observe(waited)
                self.log_values(first_token_s=round(waited, 4))
            if isinstance(event, AnswerEnd):
                self._count(event)
                self._note_calls(event)
            yield event

    async def gather(self, events: AsyncIterator[Event], count: int) -> list[CollectedAnswer]:
        """Return `count` whole answers; raises ClientGoneError, and nothing goes on, if the client goes away."""
        answers = [CollectedAnswer() for _ in range(count)]

        async def collect() -> list[CollectedAnswer]:
            async for event in self.counted(events):
                answers[event.choice].add(event)
            return answers

        return await self.unless_gone(collect())

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` does; cancel it and raise ClientGoneError if the client goes away first."""
        working = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(self.request.receive))
        try:
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self.server.metrics.cancelled.add()
                raise ClientGoneError
            return working.result()
        finally:
            for task in (working, gone):
                task.cancel()
            await asyncio.gather(working, gone, return_exceptions=True)

    def reply(self, value: JsonMapping) -> Response:
        """Return a JSON response."""
        extension = self.extension()
        return JSONResponse({**value, **extension}, headers=self.headers)

    def stream(self, parts: AsyncIterator[bytes], media_type: str) -> Response:
        """Return a streaming response that keeps this request open to its end."""
        return _ContextResponse(parts, self, media_type)

    def _note_calls(self, end: AnswerEnd) -> None:
        """Note calls whose arguments don't fit a keyword that can't be held while they are generated."""
        for call in end.completion.tool_calls:
            if call.problem:
                self.notes.append(f"the call of {call.name} doesn't fit its schema: {call.problem}")

    def _count(self, end: AnswerEnd) -> None:
        metrics, model, done = self.server.metrics, self.loaded.choice.name, end.completion
        metrics.prompt_tokens.add(done.prompt_tokens, model=model)
        metrics.cached_tokens.add(done.cached_tokens, model=model)
        metrics.written_tokens.add(len(done.token_ids), model=model)
        metrics.passes.add(done.passes, model=model)
        metrics.passes_off.add(done.passes_off, model=model)
        for counts in done.drafts:
            for at, (drafted, accepted) in enumerate(zip(counts.drafted, counts.accepted, strict=True), 1):
                place = {"model": model, "source": counts.source, "position": str(at)}
                metrics.drafted.add(drafted, **place)
                metrics.accepted.add(accepted, **place)
        said = self.request.state.log
        self.log_values(
            prompt_tokens=said.get("prompt_tokens", 0) + done.prompt_tokens,
            cached_tokens=said.get("cached_tokens", 0) + done.cached_tokens,
            written_tokens=said.get("written_tokens", 0) + len(done.token_ids),
        )
        if self.server.settings.log_prompts:
            self.log_values(prompt=self.loaded.llama.tokenizer.decode(end.prompt), answer=done.text)


class _ContextResponse(StreamingResponse):
    """A stream whose context ends with it, even if it never began."""

    def __init__(self, parts: AsyncIterator[bytes], context: RequestContext, media_type: str) -> None:
        super().__init__(parts, headers={**STREAM_HEADERS, **context.headers}, media_type=media_type)
        self._stack, self._turn = context.stack.pop_all(), context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = False

        async def sent(message: Any) -> None:
            nonlocal whole
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await super().__call__(scope, receive, sent)
        finally:
            if not whole:
                self._turn.server.metrics.cancelled.add()
            await self._stack.aclose()


def _printable(text: str) -> str:
    """Return a client's words as a header can carry them: printable ASCII; no space may stand at its end."""
    return re.sub(r"[^ -~]", "?", text)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
