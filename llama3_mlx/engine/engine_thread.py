"""The thread that does all MLX work of one model, and the ways in from other threads."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol, TypeVar

from ..device import lowered_cache_limit, wired_memory
from ..errors import EngineClosedError, ForkError
from .request import Request

T = TypeVar("T")
# How often a caller that waits looks whether the work was broken off, and how long a broken thread is waited for.
_CHECK_S, _BROKEN_S = 0.5, 2.0


class StepWork(Protocol):
    """What the thread does, step by step; the engine implements it."""

    def has_work(self) -> bool:
        """Return whether there is something to do."""

    def add(self, request: Request) -> None:
        """Take a request."""

    def step(self) -> None:
        """Do the next piece of work."""

    def rest(self, is_idle: Callable[[], bool]) -> None:
        """Use the time while there is nothing to do, as long as `is_idle`."""

    def fail(self, error: Exception) -> None:
        """Tell an error to all that wait for what runs."""

    def shut_down(self) -> None:
        """End everything and free the memory."""


class EngineThread:
    """Starts with the first request. Requests and calls of other threads are taken between two steps."""

    def __init__(self, work: StepWork) -> None:
        self._work = work
        self._inbox: queue.SimpleQueue[Request | Callable[[], None]] = queue.SimpleQueue()
        self.closing = False
        self.broken: Exception | None = None
        """What ended all work for good."""
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._thread: threading.Thread | None = None

    @property
    def queued(self) -> int:
        """Requests and calls that haven't been taken yet."""
        return self._inbox.qsize()

    def submit(self, item: Request | Callable[[], None]) -> None:
        """Hand over a request, or a function to run. Raises EngineClosedError or ForkError."""
        if os.getpid() != self._pid:
            raise ForkError
        with self._lock:
            if self.broken is not None:
                raise self.broken
            if self.closing:
                raise EngineClosedError
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llama3-mlx engine", daemon=True)
                self._thread.start()
            self._inbox.put(item)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function between two steps and return its result."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.submit(run)
        while not wait([future], _CHECK_S).done:
            if self.broken is not None:
                raise self.broken
        return future.result()

    def break_off(self, error: Exception) -> None:
        """End all work for good, in any thread: the engine's own may hang in the device."""
        with self._lock:
            self.broken = self.broken or error
            while not self._inbox.empty():
                item = self._inbox.get()
                if isinstance(item, Request):
                    item.fail(error)
            self._inbox.put(lambda: None)

    def close(self) -> bool:
        """End the thread and wait for it; return False in a forked process, whose parent still needs the model."""
        if os.getpid() != self._pid:
            # The lock may have been held at the fork, for ever here.
            return False
        with self._lock:
            thread, self.closing = self._thread, True
        if thread is not None and thread.is_alive():
            self._inbox.put(lambda: None)
            while thread.is_alive() and self.broken is None:
                thread.join(_CHECK_S)
            thread.join(_BROKEN_S)
        return True

    def _run(self) -> None:
        with contextlib.ExitStack() as busy:
            awake = False
            while not self.closing and self.broken is None:
                idle = not self._work.has_work()
                if idle and self._inbox.empty():
                    awake = False
                    busy.close()
                    try:
                        self._work.rest(lambda: self._inbox.empty() and not self.closing)
                    except Exception as error:
                        self._work.fail(error)
                self._receive(wait=idle)
                if not awake and self._work.has_work():
                    awake = True
                    busy.enter_context(lowered_cache_limit())
                    busy.enter_context(wired_memory())
                try:
                    self._work.step()
                except Exception as error:
                    # The thread serves others too: what failed is told to those who wait for it.
                    self._work.fail(error)
            if self.broken is not None:
                # Nothing more is asked of MLX, which may never answer; the cache limit stays.
                busy.pop_all()
        self._receive(wait=False)
        self._work.shut_down()

    def _receive(self, *, wait: bool) -> None:
        """Take what has come in: requests go to the queue, functions are run at once."""
        while wait or not self._inbox.empty():
            item = self._inbox.get()
            wait = False
            if isinstance(item, Request):
                self._work.add(item)
            else:
                item()
