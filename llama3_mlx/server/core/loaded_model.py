"""One model in memory: hands submissions to the engine, and the pieces of its replies to the event loop."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from ...distributed.group import kill_later
from ...distributed.settings import NodeOptions
from ...engine.reply import Item, Reply
from ...errors import PeerError, RequestError
from ...generation.completion import Completion, Piece
from ...generation.options import GenerationOptions
from ...library.catalogue import ModelChoice, ModelEntry
from ...llama import Llama
from ...safety import Guard
from ...structured.constraint import check_answer
from ..http.errors import ApiError
from ..http.logs import log
from .events import PromptProgress

T = TypeVar("T")
# Prompts that are tokenized and grammars that are compiled at a time, beside the event loop.
_PREPARING = 4
# After which a server whose other processes are gone ends in any case.
_STOP_S = 8.0
_ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One generation to submit: a prompt in token ids and its options, the length apart."""

    prompt: Sequence[int]
    options: GenerationOptions
    max_tokens: int | None = None
    """May be more than the context leaves, where the answer then ends."""
    progress: bool = False
    """Whether to tell how much of the prompt has been run."""


class ModelRuntime:
    """A loaded model; its engine generates for all its adapters in one batch."""

    def __init__(
        self,
        model: ModelEntry,
        max_running: int,
        max_queue: int,
        *,
        draft: Path | None = None,
        nodes: NodeOptions | None = None,
    ) -> None:
        self.model, self.draft, self.nodes = model, draft, nodes or NodeOptions()
        self.load_s = 0.0
        self.active = 0
        """Generations that run or wait."""
        self.max_running, self.room = max_running, max_running + max_queue
        self.llama: Llama
        self.guard: Guard | None = None
        """The model as a judge of messages, once it has been one."""
        self._adapting, self._preparing = asyncio.Lock(), anyio.CapacityLimiter(_PREPARING)

    async def load(self, memory_gb: float) -> None:
        """Load the model, which may take so much memory with its keys and values."""
        began = time.perf_counter()
        folder, max_sequences, nodes = self.model.folder, self.max_running, self.nodes
        self.llama = await asyncio.to_thread(
            lambda: Llama.load(
                folder,
                draft=self.draft,
                max_sequences=max_sequences,
                memory_gb=memory_gb,
                nodes=nodes.nodes,
                split=nodes.split,
            )
        )
        self.llama.on_lost(_stop_server)
        self.load_s = time.perf_counter() - began
        for note in self.llama.notes:
            log("contradictory files", level=logging.WARNING, model=folder.name, note=note)

    async def limit(self, memory_gb: float) -> None:
        """Change how much memory the model may take."""
        await asyncio.to_thread(self.llama.limit_memory, memory_gb)

    async def adapt(self, name: str, folder: Path) -> None:
        """Load an adapter over the model, if it isn't there yet."""
        async with self._adapting:
            if name not in self.llama.adapter_names:
                await asyncio.to_thread(self.llama.load_adapter, name, folder)

    async def prepare(self, function: Callable[[], T]) -> T:
        """Run what may take long without MLX, so that the event loop serves others meanwhile."""
        return await anyio.to_thread.run_sync(function, limiter=self._preparing)

    async def close(self) -> None:
        """End what runs and let go of the model."""
        if hasattr(self, "llama"):
            await asyncio.to_thread(self.llama.close)
            self.guard = None
            del self.llama


def _stop_server(error: PeerError) -> None:
    """End the server as a signal does, once those who wait have got the error; at the latest after some seconds."""
    log("the server ends", level=logging.ERROR, error=str(error))
    kill_later(_STOP_S, f"error: {error}\n")
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()


class LoadedModel:
    """A loaded model, with an adapter or without: what a request's `model` means."""

    def __init__(self, runtime: ModelRuntime, choice: ModelChoice) -> None:
        self.runtime, self.choice = runtime, choice

    @property
    def llama(self) -> Llama:
        """The model, which all of its adapters share."""
        return self.runtime.llama

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the engine's thread, this choice's adapter applied."""

        def run() -> T:
            if self.llama.adapters is not None:
                self.llama.adapters.select(self.choice.adapter)
            return function()

        return await asyncio.to_thread(self.llama.engine.call, run)

    @property
    def end_of_turn(self) -> list[int]:
        """The control token that the dialog format writes after an answer, if it has one."""
        control = self.llama.tokenizer.control_tokens
        return [control[text] for text in _ENDS_OF_TURN if text in control][:1]

    @property
    def active(self) -> int:
        """Generations that run or wait, of all adapters."""
        return self.runtime.active

    @property
    def waiting(self) -> int:
        """Generations that wait for a place."""
        return max(0, self.runtime.active - self.runtime.max_running)

    async def prepare(self, function: Callable[[], T]) -> T:
        """Run what may take long without MLX, so that the event loop serves others meanwhile."""
        return await self.runtime.prepare(function)

    def as_guard(self) -> Guard:
        """Return the model as a judge of messages; raises RequestError where it is no Llama Guard."""
        if self.choice.adapter is not None:
            raise RequestError(f"a guard judges without an adapter: name {self.choice.model.name} alone")
        if self.runtime.guard is None:
            self.runtime.guard = Guard.of(self.llama)
        return self.runtime.guard

    def check_room(self, count: int) -> None:
        """Raise ApiError 429 if so many more generations find no place in the queue."""
        runtime = self.runtime
        if runtime.active and runtime.active + count > runtime.room:
            raise ApiError(
                429,
                f"{runtime.active} requests are running or waiting, which is the limit: try again later",
                code="queue_full",
                headers={"retry-after": "1"},
            )

    async def start(self, submissions: Sequence[Submission], timeout_s: float) -> "Replies":
        """Start all submissions at once.

        Raises what a prompt or a setting is refused for, and ApiError 429 for a full queue.
        """
        self.check_room(len(submissions))
        self.runtime.active += len(submissions)
        replies = Replies(self, submissions)
        try:
            await self.prepare(lambda: replies.submit(timeout_s))
        except BaseException:
            replies.close()
            raise
        return replies

    def ended(self, count: int) -> None:
        """Take note that so many generations have ended."""
        self.runtime.active -= count


class Replies:
    """Pieces of several generations as they come, each with the index of its submission, and the completion at its end.

    Submissions of the same prompt share its prefill. After the time limit every answer ends where it is. `close`
    cancels what still runs.
    """

    def __init__(self, loaded: LoadedModel, submissions: Sequence[Submission]) -> None:
        self._loop = asyncio.get_running_loop()
        self._loaded, self._submissions = loaded, submissions
        self._count = self._open = len(submissions)
        self._queue: asyncio.Queue[tuple[int, Item | PromptProgress]] = asyncio.Queue()
        self._replies = [Reply(partial(self._put, index)) for index in range(len(submissions))]

    def submit(self, timeout_s: float) -> None:
        """Hand the submissions to the engine, in any thread; raises what one of them is refused for."""
        adapter, submissions = self._loaded.choice.adapter, self._submissions
        options = [
            replace(
                submission.options,
                adapter=adapter,
                timeout_s=min(timeout_s, submission.options.timeout_s or timeout_s),
            )
            for submission in submissions
        ]
        for start, stop in _same_prompts(submissions):
            first = submissions[start]
            self._loaded.llama.submit(
                first.prompt,
                options[start:stop],
                self._replies[start:stop],
                at_most=first.max_tokens,
                progress=partial(self._put_progress, start) if first.progress else None,
            )

    def _put_progress(self, index: int, processed: int, total: int) -> None:
        self._put(index, PromptProgress(index, processed, total))

    def _put(self, index: int, item: Item | PromptProgress) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, item))

    def __aiter__(self) -> "Replies":
        return self

    async def __anext__(self) -> tuple[int, Piece | Completion | PromptProgress]:
        if not self._open:
            raise StopAsyncIteration
        index, item = await self._queue.get()
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Completion):
            self._open -= 1
            item = check_answer(self._submissions[index].options, item)
        return index, item

    def cancel(self, index: int) -> None:
        """Ask for the end of one generation; its completion comes with the next token."""
        self._replies[index].cancel()

    def close(self) -> None:
        """Cancel what still runs."""
        if self._count:
            self._cancel()
            self._loaded.ended(self._count)
            self._count = 0

    def _cancel(self) -> None:
        for reply in self._replies:
            reply.cancel()


def _same_prompts(submissions: Sequence[Submission]) -> list[tuple[int, int]]:
    """Return the runs of neighbors that have one prompt, as start and stop."""
    starts = [
        at for at, submission in enumerate(submissions) if not at or submission.prompt != submissions[at - 1].prompt
    ]
    return list(zip(starts, [*starts[1:], len(submissions)], strict=True))
