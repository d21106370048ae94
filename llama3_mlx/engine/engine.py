"""The engine: one thread that owns a model, takes requests from any other and writes all answers in one batch.

A newcomer's prompt is run in chunks between the steps of those that are being written, each chunk about as long as a
step, so that none waits for another's prompt. Its first tokens are taken over from what is in memory or on disk.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar, cast

import mlx.core as mx
from mlx.utils import tree_flatten

from ..device import (
    CRITICAL,
    NORMAL,
    back_end,
    give_back_free_memory,
    lowered_cache_limit,
    memory_pressure,
    wired_memory,
)
from ..errors import EngineClosedError
from ..kv_cache import ModelCache
from ..model.transformer import LlamaForCausalLM
from ..prefix_cache.memory import PrefixCache
from ..speculation.speculators import CPU_COSTS, GPU_COSTS, LookupSpeculator, ModelSpeculator, Speculator, verify_cost
from ..tokenizer.detokenizer import Detokenizer
from ..tools.parser import PYTHON_TAG
from .batch import Batch
from .memory_room import HEADROOM, STEP_HEADROOM, needed_bytes
from .prefill import Prefill
from .request import AnswerRequest, Request
from .row import Row
from .scheduler import PREFILL_CHUNK, Pace
from .settings import Counts, EngineSettings

T = TypeVar("T")


class Engine:
    """Requests go in by `submit`; their replies get what is written. All MLX work is done on its own thread."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        settings: EngineSettings,
        make_detokenizer: Callable[[Collection[str]], Detokenizer],
        *,
        adapters: Any = None,
        disk: Any = None,
        draft: LlamaForCausalLM | None = None,
    ) -> None:
        """`draft` is a smaller model of the same vocabulary, `adapters` an AdapterSet.

        `disk` finds and keeps prefixes across processes (see disk_prefixes.py).
        """
        self.model, self.settings, self.adapters, self.disk = model, settings, adapters, disk
        self.draft = draft
        self._draft_cost = 0.0 if draft is None else _weight_bytes(draft) / max(1, _weight_bytes(model))
        self.counts = Counts()
        self.prefix_cache = PrefixCache(settings.prefix_bytes)
        self._make_detokenizer = make_detokenizer
        self._verify_cost: float | None = None
        self._batch = Batch(model, model.make_cache(settings.cache), self._select_rows, self._keep)
        self._prefill: Prefill | None = None
        self._waiting: list[Request] = []
        self._inbox: queue.SimpleQueue[Request | Callable[[], None]] = queue.SimpleQueue()
        self._closing = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pace = Pace()
        self._checked_pressure_s = 0.0

    def submit(self, request: Request) -> None:
        """Take a request; everything that comes of it goes to its replies. Raises EngineClosedError."""
        self._put(request)

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine's thread between two steps and return its result."""
        if threading.current_thread() is self._thread:
            return work()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._put(run)
        return future.result()

    def close(self) -> None:
        """End what runs, keep what is worth keeping on disk, and let go of all arrays. May be called twice."""
        with self._lock:
            thread, self._closing = self._thread, True
        if thread is not None and thread.is_alive():
            self._inbox.put(lambda: None)
            thread.join()
        for name in ("model", "draft", "adapters", "disk", "_batch"):
            self.__dict__.pop(name, None)

    @property
    def running(self) -> int:
        """Answers that are being written, prompts that are being run included."""
        if self._closing:
            return 0
        prefill = self._prefill
        return len(self._batch.rows) + (len(prefill.request.asks) if prefill else 0)

    @property
    def waiting(self) -> int:
        """Answers that wait for a place."""
        return sum(len(request.asks) for request in list(self._waiting)) + self._inbox.qsize()

    def _put(self, item: Request | Callable[[], None]) -> None:
        with self._lock:
            if self._closing:
                raise EngineClosedError
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="llama3-mlx engine", daemon=True)
                self._thread.start()
            self._inbox.put(item)

    def _run(self) -> None:
        with contextlib.ExitStack() as busy:
            awake = False
            while not self._closing:
                idle = not (self._batch.rows or self._prefill or self._waiting)
                if idle and self._inbox.empty():
                    awake = False
                    busy.close()
                    self._rest()
                self._receive(wait=idle)
                if not awake and self._waiting:
                    awake = True
                    busy.enter_context(lowered_cache_limit())
                    busy.enter_context(wired_memory())
                try:
                    self._work()
                except Exception as error:
                    # The thread serves others too: what failed is told to those who wait for it.
                    self._fail(error)
        self._shut_down()

    def _receive(self, *, wait: bool) -> None:
        """Take what has come in: requests to the queue, calls at once."""
        while wait or not self._inbox.empty():
            item = self._inbox.get()
            wait = False
            if isinstance(item, Request):
                self._wait(item)
            else:
                item()

    def _wait(self, request: Request) -> None:
        """Put a request where it is due among those that wait."""
        self._waiting.append(request)
        self._waiting.sort(key=lambda request: request.order)

    def _work(self) -> None:
        """Do one chunk of a prompt and one step of the batch."""
        self._relieve()
        for row in self._batch.rows:
            row.check()
        self._batch.drop_ended()
        self._drop_cancelled()
        began, chunk, others = time.perf_counter(), 0, bool(self._batch.rows)
        if self._prefill is None:
            self._prefill = self._next()
        if self._prefill is not None:
            chunk = self._advance(self._prefill, self._pace.chunk() if self._watched else PREFILL_CHUNK)
        self._make_room()
        if self._batch.rows and (self._watched or not self._may_gather()):
            self._batch.step()
            self.counts.steps += 1
            if others:
                self._pace.took(time.perf_counter() - began, chunk)

    @property
    def _watched(self) -> bool:
        """Whether somebody follows what is being written, so that a newcomer's prompt mustn't stall it."""
        return any(not row.request.bulk for row in self._batch.rows)

    def _may_gather(self) -> bool:
        """Whether there are more prompts to run before the next step, which then serves more rows."""
        return self._prefill is not None or (bool(self._waiting) and self._has_room(self._waiting[0]))

    def _drop_cancelled(self) -> None:
        for request in [request for request in self._waiting if _over(request)]:
            self._waiting.remove(request)
            self._finish_unwritten(request)
        if self._prefill is not None and _over(self._prefill.request):
            request, self._prefill = self._prefill.request, None
            self._finish_unwritten(request)

    def _finish_unwritten(self, request: Request) -> None:
        for row in self._make_rows(request):
            row.check()
            row.ended = row.ended or "cancelled"
            row.end()

    def _next(self) -> Prefill | None:
        """Begin with the first of those that wait, if there is a place and memory for it."""
        if not self._waiting:
            return None
        request = self._waiting[0]
        if self._batch.rows and not self._has_room(request):
            return None
        self._waiting.pop(0)
        self.counts.requests += request.resumed is None
        if not self._batch.rows:
            mx.reset_peak_memory()
        try:
            cache = self._known_prefix(request) or self.model.make_cache(self.settings.cache)
        except Exception as error:
            request.fail(error)
            return None
        return Prefill(self.model, request, cache)

    def _has_room(self, request: Request) -> bool:
        settings, rows = self.settings, self._batch.rows
        if (
            len(rows) + len(request.asks) > settings.max_sequences
            or self.model.config.rope_scaling.rope_type == "dynamic"
        ):
            return False
        return needed_bytes(settings, rows, request, HEADROOM) <= settings.memory_bytes

    def _make_room(self) -> None:
        """Let kept prefixes go, then the youngest answers wait, until what runs can go on.

        How long answers get isn't known when they are let in: room for all that they may write would leave them to
        run one by one.
        """
        while True:
            request = self._prefill.request if self._prefill else None
            left = self.settings.memory_bytes - needed_bytes(self.settings, self._batch.rows, request, STEP_HEADROOM)
            if left < self.prefix_cache.budget_bytes:
                self.prefix_cache.shrink(max(0, int(left)))
            if left >= 0 or len(self._batch.rows) < 2:
                return
            youngest = max(self._batch.rows, key=lambda row: row.request.order)
            if self._batch.evict(youngest):
                self.counts.preempted += 1
                self._wait(youngest.resumption())

    def _known_prefix(self, request: Request) -> ModelCache | None:
        """Return a cache of the longest beginning of the prompt that is running, in memory or on disk."""
        if request.wants_prompt_logprobs:
            return None
        found = self.prefix_cache.find(request.prompt, request.adapter)
        length = found.lengths[0] if found else 0
        running = self._running_prefix(request, length)
        if running is not None:
            return running
        if self.disk is not None:
            return self.disk.find(request.prompt, request.adapter, length) or found
        return found

    def _running_prefix(self, request: Request, length: int) -> ModelCache | None:
        """Return a copy of a running row's cache if it has at least a chunk more in common than `length` tokens."""
        import numpy as np

        from ..prefix_cache.memory import SHORTEST, common_length

        wanted, best = np.asarray(request.prompt[:-1], np.int32), None
        for at, row in enumerate(self._batch.rows):
            if row.request.adapter != request.adapter:
                continue
            n = common_length(np.asarray(row.request.prompt, np.int32), wanted)
            if n >= length + SHORTEST and self._batch.cache.can_trim(at, n):
                best, length = at, n
        if best is None:
            return None
        cache = self._batch.cache.take(best)
        cache.trim(length)
        return cache

    def _advance(self, prefill: Prefill, most: int) -> int:
        """Run the next chunk and return its length; at the prompt's end its rows join the batch."""
        chunk = min(most, prefill.left)
        self._select(prefill.request.adapter)
        try:
            prefill.advance(chunk, wait=not self._batch.rows)
            if not prefill.left:
                self._prefill = None
                self._join(prefill)
        except Exception as error:
            self._prefill = None
            prefill.request.fail(error)
        return chunk

    def _join(self, prefill: Prefill) -> None:
        request = prefill.request
        if request.resumed is not None:
            self._batch.resume(request.resumed, prefill.cache)
            return
        logits = prefill.logits()
        rows, finite = self._make_rows(request), mx.isfinite(logits).all()
        for row in rows:
            row.cached_tokens, row.prefill_began_s, row.finite = prefill.cached_tokens, prefill.began_s, finite
            row.prompt_logprobs = prefill.prompt_logprobs() if row.options.prompt_logprobs is not None else None
        self.counts.prompt_tokens += len(request.prompt)
        self.counts.cached_tokens += prefill.cached_tokens
        for row in [row for row in rows if not row.room]:
            rows.remove(row)
            row.ended = "length"
            row.end()
        if rows:
            self._batch.add(rows, prefill.cache, logits)

    def _make_rows(self, request: Request) -> list[Row]:
        if request.resumed is not None:
            return [request.resumed]
        n_vocab, stop_ids = self.model.config.vocab_size, self.settings.stop_ids
        return [
            Row(
                request,
                ask,
                n_vocab=n_vocab,
                stop_ids=stop_ids,
                detokenizer=self._make_detokenizer((PYTHON_TAG,) if ask.options.calls_tools else ()),
                speculator=self._make_speculator(request, ask),
            )
            for ask in request.asks
        ]

    def _make_speculator(self, request: Request, ask: AnswerRequest) -> Speculator | None:
        if not ask.options.speculate:
            return None
        if self.draft is None:
            self._verify_cost = self._verify_cost or verify_cost(self.model)
            return LookupSpeculator(request.prompt, self._verify_cost)
        costs = GPU_COSTS if back_end().cheap_verification else CPU_COSTS
        return ModelSpeculator(self.draft, request.prompt, replace(costs, draft=self._draft_cost))

    def _keep(self, row: Row, take: Callable[[], ModelCache]) -> None:
        """Keep an ended row's cache for the prompts that go on from it."""
        self.counts.generated_tokens += len(row.tokens)
        if self.prefix_cache.budget_bytes <= 0 and self.disk is None:
            return
        tokens = [*row.request.prompt, *row.tokens]
        cache = take()
        length = min(len(tokens), cache.lengths[0])
        if not cache.can_trim(0, length):
            return
        cache.trim(length)
        self.prefix_cache.put(tokens[:length], row.request.adapter, cache)
        if self.disk is not None:
            self.disk.keep(tokens[:length], row.request.adapter, cache)

    def _select(self, adapter: str | None) -> None:
        if self.adapters is not None:
            self.adapters.select(adapter)

    def _select_rows(self, rows: Sequence[Row]) -> None:
        if self.adapters is None:
            return
        names = [row.request.adapter for row in rows]
        if len(set(names)) == 1:
            self.adapters.select(names[0])
        else:
            self.adapters.select_rows(names)

    def _relieve(self) -> None:
        """Let memory go where the system is short of it; asked once a second."""
        now = time.monotonic()
        if now - self._checked_pressure_s < 1.0:
            return
        self._checked_pressure_s = now
        level = memory_pressure()
        if level > NORMAL:
            self.relieve(self.prefix_cache.nbytes // 2 if level < CRITICAL else 0)

    def limit(self, memory_bytes: int, prefix_bytes: int) -> None:
        """Change what keys and values may take, on the engine's thread; what runs goes on."""
        self.settings = replace(self.settings, memory_bytes=memory_bytes, prefix_bytes=prefix_bytes)
        self.prefix_cache.budget_bytes = prefix_bytes
        self.prefix_cache.shrink(prefix_bytes)

    def relieve(self, keep_bytes: int = 0) -> None:
        """Let go of kept prefixes and of the allocator's free memory, on the engine's thread."""
        self.prefix_cache.shrink(keep_bytes)
        give_back_free_memory()

    def _rest(self) -> None:
        """Nothing to do: write what is to be kept on disk, as long as nobody comes."""
        while self.disk is not None and self._inbox.empty() and not self._closing and self.disk.write_one():
            pass
        if self._inbox.empty():
            give_back_free_memory()

    def _fail(self, error: Exception) -> None:
        prefill, rows = self._prefill, list(self._batch.rows)
        self._prefill = None
        self._batch = Batch(self.model, self.model.make_cache(self.settings.cache), self._select_rows, self._keep)
        if prefill is not None:
            prefill.request.fail(error)
        for row in rows:
            row.ask.reply.deliver(error)

    def _shut_down(self) -> None:
        self._receive(wait=False)
        error = EngineClosedError("the model was closed while this answer was written")
        self._fail(error)
        for request in self._waiting:
            request.fail(error)
        self._waiting.clear()
        while self.disk is not None and self.disk.write_one():
            pass
        self.prefix_cache.shrink(0)
        self._batch.cache.clear()
        give_back_free_memory()
        # MLX's streams belong to their thread; left to the interpreter's end, their workers would race with it.
        mx.synchronize()
        mx.clear_streams()


def _weight_bytes(model: LlamaForCausalLM) -> int:
    return sum(array.nbytes for _, array in cast(list[tuple[str, mx.array]], tree_flatten(model.parameters())))


def _over(request: Request) -> bool:
    """Whether nobody waits for the request any more, or its time is over."""
    timeout = max((ask.options.timeout_s or float("inf")) for ask in request.asks)
    return request.cancelled or time.perf_counter() - request.began_s > timeout
