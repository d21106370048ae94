"""One model in memory: starts generations on its thread and hands their pieces to the event loop."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ..completion import Completion, Piece
from ..generation import check_length
from ..llama import Llama
from ..options import make_options
from .catalogue import Choice
from .errors import ApiError

T = TypeVar("T")
_ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One generation that is wanted: a prompt in token ids, and settings by their names in GenerationOptions."""

    prompt: Sequence[int]
    settings: dict[str, Any]
    adapter: str | None = None


class Served:
    """A loaded model and the thread that it lives on."""

    def __init__(self, choice: Choice, adapter: Any, max_running: int, max_queue: int) -> None:
        self.choice = choice
        self.load_s = 0.0
        self._adapter = adapter
        self._room = max_running + max_queue
        self._max_running = max_running
        self._active = 0
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"model {choice.name}")
        self.llama: Llama

    async def load(self) -> None:
        """Load the model."""
        began = time.perf_counter()
        self.llama = await self.call(lambda: Llama.load(self.choice.model.folder, adapter=self._adapter))
        self.load_s = time.perf_counter() - began

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the model's thread."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function)

    async def close(self) -> None:
        """End the thread once what runs on it is done, and let go of the model."""
        await asyncio.to_thread(self.thread.shutdown, wait=True)
        if hasattr(self, "llama"):
            del self.llama

    @property
    def end_of_turn(self) -> list[int]:
        """The control token that the dialog format writes after an answer, if it has one."""
        control = self.llama.tokenizer.control_tokens
        return [control[text] for text in _ENDS_OF_TURN if text in control][:1]

    @property
    def active(self) -> int:
        """Generations that run or wait."""
        return self._active

    @property
    def waiting(self) -> int:
        """Generations that wait for a place."""
        return max(0, self._active - self._max_running)

    def start(self, asks: Sequence[Ask], timeout_s: float) -> "Replies":
        """Start all asks at once; raises what a prompt or a setting is refused for, ApiError 429 for a full queue."""
        if self._active and self._active + len(asks) > self._room:
            raise ApiError(
                429,
                f"{self._active} requests are running or waiting, which is the limit: try again later",
                code="queue_full",
                headers={"retry-after": "1"},
            )
        for ask in asks:
            check_length(ask.prompt, make_options(ask.settings).max_tokens, self.llama.config.max_position_embeddings)
        self._active += len(asks)
        return Replies(self, asks, timeout_s)

    def ended(self, count: int) -> None:
        """Take note that so many generations have ended."""
        self._active -= count


class Replies:
    """Pieces of several generations as they come, each with its ask's index, and the completion at its end.

    After the time limit every answer ends where it is. `close` cancels what still runs.
    """

    def __init__(self, served: Served, asks: Sequence[Ask], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._served, self._count, self._open = served, len(asks), len(asks)
        self._queue: asyncio.Queue[tuple[int, Piece | Completion | BaseException]] = asyncio.Queue()
        self._gone = threading.Event()
        self._timer = loop.call_later(timeout_s, self._gone.set)
        self._jobs = [
            loop.run_in_executor(served.thread, _Job(served.llama, index, ask, loop, self._queue, self._gone).run)
            for index, ask in enumerate(asks)
        ]

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
            self._timer.cancel()
            self._gone.set()
            for job in self._jobs:
                job.cancel()
            self._served.ended(self._count)
            self._count = 0


class _Job:
    """One generation on the model's thread."""

    def __init__(
        self,
        llama: Llama,
        index: int,
        ask: Ask,
        loop: asyncio.AbstractEventLoop,
        queue: Any,
        gone: threading.Event,
    ) -> None:
        self._llama, self._index, self._ask = llama, index, ask
        self._loop, self._queue, self._gone = loop, queue, gone

    def run(self) -> None:
        try:
            with self._llama.stream(self._ask.prompt, **self._ask.settings) as stream:
                for piece in stream:
                    self._put(piece)
                    if self._gone.is_set():
                        break
            self._put(stream.completion)
        except Exception as error:
            self._put(error)

    def _put(self, item: Any) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (self._index, item))
