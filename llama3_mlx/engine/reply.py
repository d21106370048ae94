"""The way of an answer from the engine's thread to its receiver, on any thread or event loop."""

import asyncio
import os
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, Self

from ..errors import ForkError
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

    The generation ends at the next token when the stream is closed, its `with` block or a `for` loop over it is left,
    by `break` or by an exception, or when it is dropped.
    """

    def __init__(self, finish: Finish | None = None) -> None:
        """`finish` is applied to the completion when it is requested, on the caller's thread."""
        self._finish = finish or _unchanged
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.reply = Reply(self._queue.put)
        self._end: Completion | BaseException | None = None
        self._pid = os.getpid()
        weakref.finalize(self, self.reply.cancel)

    def __iter__(self) -> Iterator[Piece]:
        return _Loop(self)

    def __next__(self) -> Piece:
        if self._end is None:
            item = self._receive()
            if isinstance(item, Piece):
                return item
            self._end = item
            if isinstance(item, BaseException):
                raise item
        raise StopIteration

    def _receive(self) -> Item:
        if os.getpid() != self._pid:
            raise ForkError
        try:
            return self._queue.get()
        except BaseException:
            # Ctrl-C: a traceback that is kept, as a REPL does, would keep the stream alive and the engine at work.
            self.reply.cancel()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cancel(self) -> None:
        """Ask for the end of the generation from any thread; pieces on their way still come."""
        self.reply.cancel()

    def close(self) -> None:
        """End the generation and wait until its place in the batch is free."""
        self.reply.cancel()
        while self._end is None:
            item = self._receive()
            if not isinstance(item, Piece):
                self._end = item

    @property
    def completion(self) -> Completion[Parsed_co]:
        """The completion; waits for the end of the generation. Raises the error that ended it, if one did."""
        for _ in self:
            pass
        assert self._end is not None, "the iteration ends with an item"
        if isinstance(self._end, BaseException):
            raise self._end
        return self._finish(self._end)


class _Loop(Iterator[Piece]):
    """One `for` loop over a stream.

    The interpreter drops a loop's iterator when the loop is left, whatever the way, while a traceback may keep the
    stream itself alive.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __next__(self) -> Piece:
        return next(self._stream)

    def __del__(self) -> None:
        self._stream.reply.cancel()


class AsyncStream(AsyncIterator[Piece], Generic[Parsed_co]):
    """The same for an event loop: `async for piece in stream`, then `stream.completion`."""

    def __init__(self, finish: Finish | None = None) -> None:
        self._finish = finish or _unchanged
        loop, items = asyncio.get_running_loop(), asyncio.Queue[Item]()
        self._queue = items

        def deliver(item: Item) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        self.reply = Reply(deliver)
        self._end: Completion | BaseException | None = None
        weakref.finalize(self, self.reply.cancel)

    def __aiter__(self) -> AsyncIterator[Piece]:
        return _AsyncLoop(self)

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def cancel(self) -> None:
        """Ask for the end of the generation; pieces on their way still come."""
        self.reply.cancel()

    async def aclose(self) -> None:
        """End the generation and wait until its place in the batch is free."""
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


class _AsyncLoop(AsyncIterator[Piece]):
    """One `async for` loop over a stream."""

    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream

    async def __anext__(self) -> Piece:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        self._stream.reply.cancel()


def _unchanged(completion: Completion) -> Completion:
    return completion
