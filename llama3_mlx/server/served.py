"""One model in memory: hands the engine what is asked, and the pieces to the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..completion import Completion, Piece
from ..engine.reply import Item, Reply
from ..llama import Llama
from ..options import make_options
from .catalogue import Choice, ModelEntry
from .errors import ApiError

T = TypeVar("T")
_ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One generation that is wanted: a prompt in token ids, and settings by their names in GenerationOptions."""

    prompt: Sequence[int]
    settings: dict[str, Any]


class Base:
    """A loaded model; its engine writes the answers of all its adapters in one batch."""

    def __init__(self, model: ModelEntry, max_running: int, max_queue: int) -> None:
        self.model = model
        self.load_s = 0.0
        self.active = 0
        """Generations that run or wait."""
        self.max_running, self.room = max_running, max_running + max_queue
        self.llama: Llama
        self._adapting = asyncio.Lock()

    async def load(self, memory_gb: float) -> None:
        """Load the model, which may take so much memory with its keys and values."""
        began = time.perf_counter()
        folder, max_rows = self.model.folder, self.max_running
        self.llama = await asyncio.to_thread(lambda: Llama.load(folder, max_rows=max_rows, memory_gb=memory_gb))
        self.load_s = time.perf_counter() - began

    async def limit(self, memory_gb: float) -> None:
        """Change how much memory the model may take."""
        await asyncio.to_thread(self.llama.limit_memory, memory_gb)

    async def adapt(self, name: str, folder: Path) -> None:
        """Load an adapter over the model, if it isn't there yet."""
        async with self._adapting:
            if name not in self.llama.adapter_names:
                await asyncio.to_thread(self.llama.load_adapter, name, folder)

    async def close(self) -> None:
        """End what runs and let go of the model."""
        if hasattr(self, "llama"):
            await asyncio.to_thread(self.llama.close)
            del self.llama


class Served:
    """A loaded model, with an adapter or without: what a request's `model` means."""

    def __init__(self, base: Base, choice: Choice) -> None:
        self.base, self.choice = base, choice

    @property
    def llama(self) -> Llama:
        """The model, which all of its adapters share."""
        return self.base.llama

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
        return self.base.active

    @property
    def waiting(self) -> int:
        """Generations that wait for a place."""
        return max(0, self.base.active - self.base.max_running)

    def start(self, asks: Sequence[Ask], timeout_s: float) -> "Replies":
        """Start all asks at once; raises what a prompt or a setting is refused for, ApiError 429 for a full queue."""
        base = self.base
        if base.active and base.active + len(asks) > base.room:
            raise ApiError(
                429,
                f"{base.active} requests are running or waiting, which is the limit: try again later",
                code="queue_full",
                headers={"retry-after": "1"},
            )
        base.active += len(asks)
        try:
            return Replies(self, asks, timeout_s)
        except BaseException:
            base.active -= len(asks)
            raise

    def ended(self, count: int) -> None:
        """Take note that so many generations have ended."""
        self.base.active -= count


class Replies:
    """Pieces of several generations as they come, each with its ask's index, and the completion at its end.

    Asks of the same prompt share its prefill. After the time limit every answer ends where it is. `close` cancels what
    still runs.
    """

    def __init__(self, served: Served, asks: Sequence[Ask], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._served, self._count, self._open = served, len(asks), len(asks)
        queue: asyncio.Queue[tuple[int, Item]] = asyncio.Queue()
        self._queue = queue

        def reply_of(index: int) -> Reply:
            return Reply(lambda item: _put(loop, queue, index, item))

        self._replies = [reply_of(index) for index in range(len(asks))]
        options = [
            make_options({"timeout_s": timeout_s, "adapter": served.choice.adapter, **ask.settings}) for ask in asks
        ]
        try:
            for start, stop in _same_prompts(asks):
                served.llama.submit(asks[start].prompt, options[start:stop], self._replies[start:stop])
        except BaseException:
            self._cancel()
            raise

    def __aiter__(self) -> "Replies":
        return self

    async def __anext__(self) -> tuple[int, Piece | Completion]:
        if not self._open:
            raise StopAsyncIteration
        index, item = await self._queue.get()
        if isinstance(item, BaseException):
            raise item
        self._open -= isinstance(item, Completion)
        return index, item

    def close(self) -> None:
        """Cancel what still runs."""
        if self._count:
            self._cancel()
            self._served.ended(self._count)
            self._count = 0

    def _cancel(self) -> None:
        for reply in self._replies:
            reply.cancel()


def _put(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[tuple[int, Item]]", index: int, item: Item) -> None:
    loop.call_soon_threadsafe(queue.put_nowait, (index, item))


def _same_prompts(asks: Sequence[Ask]) -> list[tuple[int, int]]:
    """Return the runs of neighbours that have one prompt, as start and stop."""
    starts = [at for at, ask in enumerate(asks) if not at or ask.prompt != asks[at - 1].prompt]
    return list(zip(starts, [*starts[1:], len(asks)], strict=True))
