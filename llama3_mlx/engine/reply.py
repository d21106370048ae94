"""The way of an answer from the engine's thread to whoever waits for it, on any thread or event loop."""

import asyncio
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic

from ..generation.completion import Completion, Parsed_co, Piece

Item = Piece | Completion | BaseException
Finish = Callable[[Completion], Completion]


class Reply:
    """What the engine knows of a receiver: where items go, and whether they are still wanted."""

    def __init__(self, deliver: Callable[[Item], None]) -> None:
        self._deliver = deliver
        self._cancelled = threading.Event()

    def deliver(self, item: Item) -> None:
        """Hand over a piece, or the completion or error that ends the answer; never raises."""
        try:
            self._deliver(item)
        except RuntimeError:
            # The event loop is closed: nobody listens any more.
            self.cancel()

    def cancel(self) -> None:
        """Ask for the end of the answer; it comes with the next token."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether the answer isn't wanted any more."""
        return self._cancelled.is_set()


class Stream(Iterator[Piece], Generic[Parsed_co]):
    """Pieces of a running generation; `completion` holds the whole once the last piece is out.

    Closing it, leaving its `with` block or dropping it ends the generation at the next token.
    """

    def __init__(self, finish: Finish | None = None) -> None:
        """`finish` is applied to the completion when it is asked for, on the caller's thread."""
        self._finish = finish or (lambda completion: completion)
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.reply = Reply(self._queue.put)
        self._end: Completion | BaseException | None = None
        weakref.finalize(self, self.reply.cancel)

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        if self._end is None:
            item = self._queue.get()
            if isinstance(item, Piece):
                return item
            self._end = item
            if isinstance(item, BaseException):
                raise item
        raise StopIteration

    def __enter__(self) -> "Stream[Parsed_co]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self) -> None:
        """Ask for the end of the generation from any thread; pieces that are on their way still come."""
        self.reply.cancel()

    def close(self) -> None:
        """End the generation and wait until its place is free."""
        self.reply.cancel()
        while self._end is None:
            item = self._queue.get()
            if not isinstance(item, Piece):
                self._end = item

    @property
    def completion(self) -> Completion[Parsed_co]:
        """The completion; waits for the end of the generation. Raises what ended it otherwise."""
        for _ in self:
            pass
        assert self._end is not None, "the iteration ends with an item"
        if isinstance(self._end, BaseException):
            raise self._end
        return self._finish(self._end)


class AsyncStream(Generic[Parsed_co]):
    """The same for an event loop: `async for piece in stream`, then `stream.completion`."""

    def __init__(self, finish: Finish | None = None) -> None:
        self._finish = finish or (lambda completion: completion)
        loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        put: Any = self._queue.put_nowait

        def deliver(item: Item) -> None:
            loop.call_soon_threadsafe(put, item)

        self.reply = Reply(deliver)
        self._end: Completion | BaseException | None = None
        weakref.finalize(self, self.reply.cancel)

    def __aiter__(self) -> "AsyncStream":
        return self

    async def __anext__(self) -> Piece:
        if self._end is None:
            try:
                item = await self._queue.get()
            except asyncio.CancelledError:
                self.reply.cancel()
                raise
            if isinstance(item, Piece):
                return item
            self._end = item
            if isinstance(item, BaseException):
                raise item
        raise StopAsyncIteration

    async def __aenter__(self) -> "AsyncStream[Parsed_co]":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def cancel(self) -> None:
        """Ask for the end of the generation; pieces that are on their way still come."""
        self.reply.cancel()

    async def aclose(self) -> None:
        """End the generation and wait until its place is free."""
        self.reply.cancel()
        while self._end is None:
            item = await self._queue.get()
            if not isinstance(item, Piece):
                self._end = item

    @property
    def completion(self) -> Completion[Parsed_co]:
        """The completion, once the iteration has ended."""
        if isinstance(self._end, Completion):
            return self._finish(self._end)
        if self._end is not None:
            raise self._end
        raise RuntimeError("the answer hasn't ended: iterate to its end first")
