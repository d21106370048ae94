"""From a prompt and options to what the engine runs: options filled in, limits checked, constraints compiled."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .engine.engine import Engine
from .engine.reply import AsyncStream, Finish, Reply, Stream
from .engine.request import AnswerRequest, Request
from .errors import RequestError
from .generation.completion import Completion
from .generation.limits import check_length, check_memory
from .generation.options import GenerationOptions
from .loader import ModelParts, ProgressCallback
from .tools.parser import SHOWN_TAGS

if TYPE_CHECKING:
    from .structured.constraint import ConstraintCompiler
    from .structured.grammar import Grammar

DEFAULT_ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """An answer that can be given: options filled in, how many tokens it may have, its compiled output constraint."""

    options: GenerationOptions
    limit: int
    constraint: "Grammar | None"
    stop_ids: frozenset[int]
    shown: frozenset[str]
    """Control tokens that are written out in the text."""

    def request(self, reply: Reply, *, seed_offset: int = 0, at_most: int | None = None) -> AnswerRequest:
        """Return what the engine takes; answers to one prompt differ in their seeds by `seed_offset`."""
        options, seed = self.options, self.options.seed
        if seed is not None and seed_offset:
            options = replace(options, seed=(seed + seed_offset) % 2**64)
        limit = self.limit if at_most is None else min(self.limit, at_most)
        return AnswerRequest(options, reply, limit, self.constraint, stop_ids=self.stop_ids, shown=self.shown)


class Submitter:
    """Prepares the answers of one model and hands them to its engine."""

    def __init__(self, parts: ModelParts, engine: Engine, adapter_names: Callable[[], Sequence[str]]) -> None:
        self._engine, self._tokenizer, self._adapter_names = engine, parts.tokenizer, adapter_names
        self._context, self._n_vocab = parts.model.config.max_position_embeddings, parts.model.config.vocab_size
        self._compiler: ConstraintCompiler | None = None
        self._window, self._defaults = parts.cache.window, parts.generation_defaults()

    def prepare(
        self, prompt: Sequence[int], options: GenerationOptions, constraint: "Grammar | None" = None
    ) -> PreparedAnswer:
        """Fill in the options and compile their constraint where it isn't given; raises what the answer is refused for.

        Raises RequestError, and of its kinds ContextLengthError and MemoryLimitError.
        """
        options = options.with_defaults(self._defaults)
        options = replace(options, adapter=self._adapter(options.adapter))
        limit = self._limit(prompt, options)
        if options.is_constrained and constraint is None:
            constraint = self.compile(options)
        control = self._tokenizer.control_tokens
        return PreparedAnswer(
            options,
            limit,
            constraint,
            stop_ids=frozenset([*options.stop_token_ids, *(control[text] for text in options.stop if text in control)]),
            shown=frozenset(control)
            if not options.skip_special_tokens
            else SHOWN_TAGS
            if options.calls_tools
            else frozenset(),
        )

    def compile(self, options: GenerationOptions) -> "Grammar":
        """Compile the output constraint; raises RequestError for what can't be held to."""
        if self._compiler is None:
            from .structured.constraint import ConstraintCompiler

            self._compiler = ConstraintCompiler(self._tokenizer, self._n_vocab)
        return self._compiler.compile(options)

    def stream(
        self, prompt: Sequence[int], options: GenerationOptions, progress: ProgressCallback | None = None
    ) -> Stream:
        """Start an answer, for any thread."""
        prepared = self.prepare(prompt, options)
        stream: Stream = Stream(finish_of(options))
        self.submit(prompt, [prepared.request(stream.reply)], progress)
        return stream

    def astream(
        self, prompt: Sequence[int], options: GenerationOptions, progress: ProgressCallback | None = None
    ) -> AsyncStream:
        """Start an answer, for the running event loop."""
        prepared = self.prepare(prompt, options)
        stream: AsyncStream = AsyncStream(finish_of(options))
        self.submit(prompt, [prepared.request(stream.reply)], progress)
        return stream

    def prepare_all(self, prompt: Sequence[int], options: Sequence[GenerationOptions]) -> list[PreparedAnswer]:
        """Prepare several answers to one prompt; those that differ in their seeds alone share one constraint."""
        prepared: list[PreparedAnswer] = []
        for each in options:
            alike = bool(prepared) and replace(each, seed=None) == replace(options[0], seed=None)
            prepared.append(self.prepare(prompt, each, prepared[0].constraint if alike else None))
        return prepared

    def submit(
        self,
        prompt: Sequence[int],
        answers: Sequence[AnswerRequest],
        progress: ProgressCallback | None = None,
        *,
        bulk: bool = False,
    ) -> None:
        """Hand over the answers to one prompt, at most as many at a time as the engine generates at once."""
        first, size = answers[0].options, self._engine.settings.max_sequences
        for start in range(0, len(answers), size):
            part = answers[start : start + size]
            request = Request(
                list(prompt), part, adapter=first.adapter, priority=first.priority, progress=progress, bulk=bulk
            )
            self._engine.submit(request)

    def _limit(self, prompt: Sequence[int], options: GenerationOptions) -> int:
        if self._window is not None:
            return check_length(prompt, options.max_tokens, max(self._window, 2**31))
        limit, settings = check_length(prompt, options.max_tokens, self._context), self._engine.settings
        return check_memory(prompt, options.max_tokens, limit, settings.memory_bytes, settings.bytes_per_token)

    def _adapter(self, requested: str | None) -> str | None:
        known = self._adapter_names()
        if requested is None:
            return DEFAULT_ADAPTER if DEFAULT_ADAPTER in known else None
        if requested not in known:
            raise RequestError(f"there is no adapter {requested!r}; loaded are {', '.join(known) or 'none'}")
        return requested


def finish_of(options: GenerationOptions) -> Finish | None:
    """Return what checks a finished answer and puts the object of its schema into it, None for free text."""
    if options.schema is None and not options.calls_tools:
        return None
    from .structured.constraint import finisher

    return finisher(options)


async def finished(stream: AsyncStream) -> Completion:
    """Wait for the completion of a stream; cancelling the task ends the generation."""
    try:
        async for _ in stream:
            pass
    except asyncio.CancelledError:
        stream.cancel()
        raise
    return stream.completion
