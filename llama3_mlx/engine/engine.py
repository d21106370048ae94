"""The engine: one thread that owns a model, takes requests from any other and generates all answers in one batch."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import mlx.core as mx

from ..device import CRITICAL, NORMAL, back_end, give_back_free_memory, memory_pressure
from ..errors import EngineClosedError, PeerError
from ..generation.options import GenerationOptions
from ..kv_cache import ModelCache
from ..model.transformer import LlamaForCausalLM
from ..prefix_cache.disk_queue import DiskPrefixCache
from ..prefix_cache.memory import PrefixCache
from ..speculation.eagle_head import EagleHead
from ..speculation.eagle_speculator import EagleSpeculator
from ..speculation.speculators import Speculator, Speculators
from ..tokenizer.detokenizer import Detokenizer
from .batch import Batch
from .engine_thread import EngineThread
from .groups import Groups
from .prefill import Prefill
from .prefix_reuse import PrefixReuse
from .request import Request
from .scheduler import Scheduler
from .sequence import DecodingSequence, may_speculate
from .settings import Counts, EngineSettings

T = TypeVar("T")
# Steps after which freed intermediate results are given back to the allocator.
_CLEAR_EVERY = 256


class Adapters(Protocol):
    """The adapters over the engine's model, as adapters/ implements them."""

    def select(self, choice: str | None) -> None:
        """Apply one adapter, or none, to all sequences."""

    def select_rows(self, choices: Sequence[str | None]) -> None:
        """Apply to each sequence of the next forward passes its own adapter, or none."""


class Engine:
    """Requests go in by `submit`; their replies get what is generated. All MLX work is done on its own thread."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        settings: EngineSettings,
        make_detokenizer: Callable[[Collection[str]], Detokenizer],
        *,
        adapters: Adapters | None = None,
        disk: DiskPrefixCache | None = None,
        draft: LlamaForCausalLM | EagleHead | None = None,
        explain: Callable[[Exception], Exception] = lambda error: error,
    ) -> None:
        """`make_detokenizer` gets the control tokens to show; `draft` is a smaller model of the same vocabulary, or a
        draft head.

        `explain` gets what a step raised and returns what is told to those who wait.
        """
        self.model, self.settings, self.adapters = model, settings, adapters
        self.counts = Counts()
        self.prefix_cache = PrefixCache(settings.prefix_bytes)
        self.prefixes = PrefixReuse(self.prefix_cache, disk)
        self.speculators = Speculators(model, draft, cheap_verification=back_end().cheap_verification)
        # A draft head keeps what it watches in the order of one batch.
        n_groups = model.n_stages if self.speculators.tap is None else 1
        self.groups = Groups(
            [Batch(model, settings.cache, self._select, self._keep, self.speculators) for _ in range(n_groups)]
        )
        self.scheduler = Scheduler(
            settings,
            self.groups,
            self.prefix_cache,
            self.counts,
            start=self._start_prefill,
            make_sequences=self._make_sequences,
            # With dynamic RoPE the rotation depends on the longest sequence.
            one_at_a_time=model.config.rope_scaling.rope_type == "dynamic",
        )
        self._make_detokenizer, self._explain = make_detokenizer, explain
        self._thread = EngineThread(self)
        self._checked_pressure_s = 0.0

    def step(self) -> None:
        """Run one chunk of a prompt and one decode step of the batch, in a pipeline of one of its groups."""
        prefill, chunk = self.scheduler.schedule()
        if prefill is not None:
            self._run_chunk(prefill, chunk)
        if self.scheduler.decodes_now():
            self.groups.step()
            self.scheduler.record_step()
            self._housekeep()

    def submit(self, request: Request) -> None:
        """Take a request; everything that comes of it goes to its replies. Raises EngineClosedError or ForkError."""
        self._thread.submit(request)

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine's thread between two steps and return its result."""
        return self._thread.call(work)

    def break_off(self, error: Exception) -> None:
        """Tell an error to all that wait, from any thread, and take nothing more: the device may never answer."""
        self._thread.break_off(error)
        if self._thread.closing:
            return
        prefill = self.scheduler.prefill
        for request in [*self.scheduler.waiting, *([prefill.request] if prefill is not None else [])]:
            request.fail(error)
        for sequence in list(self.groups.sequences):
            sequence.answer.reply.deliver(error)

    def close(self) -> None:
        """End what runs, write what is to be kept on disk, and free all arrays. May be called twice."""
        # Where work was broken off, even giving back an array can wait for ever.
        if self._thread.close() and self._thread.broken is None:
            for name in ("model", "adapters", "speculators", "prefixes", "groups", "scheduler"):
                self.__dict__.pop(name, None)

    @property
    def running(self) -> int:
        """Answers that are being generated, those to the prompt that is being run included."""
        if self._thread.closing:
            return 0
        prefill = self.scheduler.prefill
        return len(self.groups.sequences) + (len(prefill.request.answers) if prefill else 0)

    @property
    def waiting(self) -> int:
        """Answers that wait to be admitted."""
        if self._thread.closing:
            return 0
        return sum(len(request.answers) for request in list(self.scheduler.waiting)) + self._thread.queued

    def limit(self, memory_bytes: int, prefix_bytes: int) -> None:
        """Change what the KV cache may take, on the engine's thread; what runs continues."""
        self.settings = replace(self.settings, memory_bytes=memory_bytes, prefix_bytes=prefix_bytes)
        self.scheduler.settings = self.settings
        self.prefix_cache.budget_bytes = prefix_bytes
        self.prefix_cache.shrink(prefix_bytes)

    def relieve(self, keep_bytes: int = 0) -> None:
        """Shrink the prefix cache and give back the allocator's free memory, on the engine's thread."""
        self.prefix_cache.shrink(keep_bytes)
        give_back_free_memory()

    def __reduce__(self) -> str:
        raise TypeError("a loaded model can't be pickled or copied: load it anew in the process that needs it")

    def has_work(self) -> bool:
        """Return whether something is decoding, being prefilled or waiting."""
        return bool(self.groups.sequences or self.scheduler.prefill or self.scheduler.waiting)

    def add(self, request: Request) -> None:
        """Queue a request, on the engine's thread."""
        self.scheduler.add(request)

    def rest(self, is_idle: Callable[[], bool]) -> None:
        """Write the prefix cache to disk while nothing comes in, then give back free memory."""
        while is_idle() and self.prefixes.write_one():
            pass
        if is_idle():
            give_back_free_memory()

    def fail(self, error: Exception) -> None:
        """End all that is being prefilled or decoded with an error."""
        error = self._explain(error)
        if isinstance(error, PeerError):
            self.break_off(error)
            return
        if self.scheduler.prefill is not None:
            self.scheduler.prefill.request.fail(error)
            self.scheduler.prefill = None
        for sequence in self.groups.abandon():
            sequence.answer.reply.deliver(error)

    def shut_down(self) -> None:
        """End everything, write what is to be kept on disk, and free the memory."""
        error = EngineClosedError("the model was closed while this answer was generated")
        if self._thread.broken is not None:
            return
        self.fail(error)
        self.scheduler.fail_all(error)
        try:
            while self.prefixes.write_one():
                pass
            self.prefix_cache.shrink(0)
            self.groups.clear()
        except PeerError:
            # Nor would MLX answer.
            return
        give_back_free_memory()
        # MLX's streams belong to their thread; left to the interpreter's end, their workers would race with it.
        mx.synchronize()
        mx.clear_streams()

    def _start_prefill(self, request: Request) -> Prefill:
        if not self.groups.sequences:
            mx.reset_peak_memory()
        speculates = request.resumed is None and any(may_speculate(answer.options) for answer in request.answers)
        watches = speculates and self.speculators.tap is not None
        found = self.prefixes.find(request, self.groups, with_head=watches)
        cache = self.model.make_cache(self.settings.cache) if found is None else found.cache
        entries = None if found is None else found.head
        watcher = self.speculators.watcher(request.prompt, sum(cache.lengths), entries) if watches else None
        return Prefill(self.model, request, cache, tap=self.speculators.tap, watcher=watcher)

    def _run_chunk(self, prefill: Prefill, n: int) -> None:
        """Run the next tokens of a prompt; at its end its sequences join the batch."""
        self._select([prefill.request.adapter])
        try:
            prefill.advance(n, wait=not self.groups.sequences)
            if not prefill.remaining:
                self.scheduler.prefill = None
                self._join(prefill)
        except Exception as error:
            self.scheduler.prefill = None
            error = self._explain(error)
            prefill.request.fail(error)
            if isinstance(error, PeerError):
                self.break_off(error)

    def _join(self, prefill: Prefill) -> None:
        request = prefill.request
        if request.resumed is not None:
            self.groups.resume(request.resumed, prefill.cache)
            return
        logits = prefill.logits()
        sequences, finite = self._make_sequences(request, prefill.watcher), mx.isfinite(logits).all()
        for sequence in sequences:
            sequence.cached_tokens, sequence.prefill_began_s = prefill.cached_tokens, prefill.began_s
            sequence.finite = finite
            if sequence.options.prompt_logprobs is not None:
                sequence.prompt_logprobs = prefill.prompt_logprobs()
        self.counts.prompt_tokens += len(request.prompt)
        self.counts.cached_tokens += prefill.cached_tokens
        for sequence in [sequence for sequence in sequences if not sequence.remaining]:
            sequences.remove(sequence)
            sequence.finish_reason = "length"
            sequence.finish()
        if sequences:
            self.groups.add(sequences, prefill.cache, logits)

    def _make_sequences(self, request: Request, watcher: EagleSpeculator | None = None) -> list[DecodingSequence]:
        if request.resumed is not None:
            return [request.resumed]
        make, n_vocab = self._make_detokenizer, self.model.config.vocab_size
        return [
            DecodingSequence(
                request,
                answer,
                self.settings,
                n_vocab=n_vocab,
                detokenizer=make(answer.shown),
                speculator=self._make_speculator(request, answer.options, watcher),
            )
            for answer in request.answers
        ]

    def _make_speculator(
        self, request: Request, options: GenerationOptions, watcher: EagleSpeculator | None
    ) -> Speculator | None:
        if not may_speculate(options):
            return None
        return self.speculators.make(request.prompt, watcher, greedy=not options.temperature)

    def _keep(self, sequence: DecodingSequence, take: Callable[[], ModelCache]) -> None:
        self.counts.generated_tokens += len(sequence.tokens)
        self.prefixes.keep(sequence, take)

    def _select(self, names: Sequence[str | None]) -> None:
        """Apply to each sequence its adapter."""
        if self.adapters is None:
            return
        if len(set(names)) == 1:
            self.adapters.select(names[0])
        else:
            self.adapters.select_rows(names)

    def _housekeep(self) -> None:
        """Count a step; now and then free what the allocator holds, and the prefix cache where the system is short."""
        self.counts.steps += 1
        if self.counts.steps % _CLEAR_EVERY == 0:
            mx.clear_cache()
        now = time.monotonic()
        if now - self._checked_pressure_s >= 1.0:
            self._checked_pressure_s = now
            level = memory_pressure()
            if level > NORMAL:
                self.relieve(self.prefix_cache.nbytes // 2 if level < CRITICAL else 0)
