"""The methods of a `Llama` that generate: raw prompts and dialogs, whole and in pieces, in threads and event loops."""

from collections.abc import Iterable, Sequence
from typing import TypeVar, Unpack, overload

from .chat.messages import MessageMapping
from .engine.reply import AsyncStream, Stream
from .errors import RequestError
from .generation.completion import Completion
from .generation.keywords import GenerationKeywords, ToolRunKeywords
from .generation.options import GenerationOptions, make_options
from .generation.tool_loop import ToolRun
from .json_types import JsonMapping
from .loader import ProgressCallback
from .prompts import Prompt, PromptBuilder, prompt_list
from .submission import Submitter, finish_of, finished
from .tools.functions import Tool

T = TypeVar("T")
RawPrompt = str | Sequence[int]
Dialog = Sequence[MessageMapping]


class Keywords(GenerationKeywords, total=False):
    """Keyword arguments of the generating methods: a callback, and the settings of GenerationOptions."""

    progress: ProgressCallback | None
    """Called with (tokens so far, tokens in all) while the prompt is read; batches count completions."""


class RunKeywords(ToolRunKeywords, total=False):
    """Keyword arguments of `run_tools`, which takes the tools by themselves."""

    progress: ProgressCallback | None
    """Called with (tokens so far, tokens in all) while a prompt is read."""


class GeneratingMethods:
    """What `Llama` generates with. Methods that begin with `a` are for `async` code."""

    prompts: PromptBuilder
    _submitter: Submitter

    @overload
    def generate(self, prompt: RawPrompt, *, schema: type[T], **settings: Unpack[Keywords]) -> Completion[T | None]: ...
    @overload
    def generate(self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]) -> Completion: ...
    def generate(self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]) -> Completion:
        """Continue a text (or token ids, taken as they are) and return the completion.

        Args:
            prompt: The text, or token ids.
            schema: JSON schema, dataclass, pydantic model or type that the answer must have; `parsed` is its object.
            **settings: `progress`, called with (tokens so far, tokens in all) while the prompt is read, and the fields
                of GenerationOptions.

        Raises:
            RequestError: A setting or the prompt can't be used; before anything runs.
            StructureError: The finished answer doesn't fit the schema.
        """
        return self.stream(prompt, schema=schema, **settings).completion

    @overload
    def stream(self, prompt: RawPrompt, *, schema: type[T], **settings: Unpack[Keywords]) -> Stream[T | None]: ...
    @overload
    def stream(self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]) -> Stream: ...
    def stream(self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]) -> Stream:
        """Continue a text, piece by piece; see `generate`."""
        progress, options = _options(settings, schema)
        return self._submitter.stream(self.prompts.of_text(prompt, options), options, progress)

    @overload
    def chat(self, messages: Dialog, *, schema: type[T], **settings: Unpack[Keywords]) -> Completion[T | None]: ...
    @overload
    def chat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> Completion: ...
    def chat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> Completion:
        """Answer a dialog and return the completion.

        Args:
            messages: `{"role", "content"}` objects in OpenAI's shape; what its own message objects hold is accepted.
            schema: As for `generate`. With `tools` the answer is either calls or an answer of the schema.
            **settings: As for `generate`.

        Raises:
            DialogError: The dialog can't be rendered.
            RequestError, StructureError: As for `generate`.
        """
        return self.stream_chat(messages, schema=schema, **settings).completion

    @overload
    def stream_chat(self, messages: Dialog, *, schema: type[T], **settings: Unpack[Keywords]) -> Stream[T | None]: ...
    @overload
    def stream_chat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> Stream: ...
    def stream_chat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> Stream:
        """Answer a dialog, piece by piece; see `chat`."""
        progress, options = _options(settings, schema)
        return self._submitter.stream(self.prompts.of_chat(messages, options), options, progress)

    @overload
    async def agenerate(
        self, prompt: RawPrompt, *, schema: type[T], **settings: Unpack[Keywords]
    ) -> Completion[T | None]: ...
    @overload
    async def agenerate(
        self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]
    ) -> Completion: ...
    async def agenerate(self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]) -> Completion:
        """Continue a text and return the completion; cancelling the task ends the generation."""
        return await finished(self.astream(prompt, schema=schema, **settings))

    @overload
    def astream(self, prompt: RawPrompt, *, schema: type[T], **settings: Unpack[Keywords]) -> AsyncStream[T | None]: ...
    @overload
    def astream(self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]) -> AsyncStream: ...
    def astream(self, prompt: RawPrompt, *, schema: object = None, **settings: Unpack[Keywords]) -> AsyncStream:
        """Continue a text: `async for piece in llama.astream(...)`."""
        progress, options = _options(settings, schema)
        return self._submitter.astream(self.prompts.of_text(prompt, options), options, progress)

    @overload
    async def achat(
        self, messages: Dialog, *, schema: type[T], **settings: Unpack[Keywords]
    ) -> Completion[T | None]: ...
    @overload
    async def achat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> Completion: ...
    async def achat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> Completion:
        """Answer a dialog and return the completion; cancelling the task ends the generation."""
        return await finished(self.astream_chat(messages, schema=schema, **settings))

    @overload
    def astream_chat(
        self, messages: Dialog, *, schema: type[T], **settings: Unpack[Keywords]
    ) -> AsyncStream[T | None]: ...
    @overload
    def astream_chat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> AsyncStream: ...
    def astream_chat(self, messages: Dialog, *, schema: object = None, **settings: Unpack[Keywords]) -> AsyncStream:
        """Answer a dialog: `async for piece in llama.astream_chat(messages)`."""
        progress, options = _options(settings, schema)
        return self._submitter.astream(self.prompts.of_chat(messages, options), options, progress)

    @overload
    def generate_batch(
        self, prompts: Iterable[Prompt], *, schema: type[T], **settings: Unpack[Keywords]
    ) -> list[Completion[T | None]]: ...
    @overload
    def generate_batch(
        self, prompts: Iterable[Prompt], *, schema: object = None, **settings: Unpack[Keywords]
    ) -> list[Completion]: ...
    def generate_batch(
        self, prompts: Iterable[Prompt], *, schema: object = None, **settings: Unpack[Keywords]
    ) -> list[Completion]:
        """Continue texts (or token ids) and answer dialogs, all at once; return the completions in their order.

        `progress` is called with (completions so far, all). Prompts that are refused are so before anything starts.
        """
        progress, options = _options(settings, schema)
        listed = [self.prompts.of_either(prompt, options) for prompt in prompt_list(prompts)]
        prepared = [(ids, self._submitter.prepare(ids, options)) for ids in listed]
        streams: list[Stream] = []
        for ids, answer in prepared:
            streams.append(Stream(finish_of(options)))
            self._submitter.submit(ids, [answer.request(streams[-1].reply)], bulk=True)
        completions = []
        try:
            for stream in streams:
                completions.append(stream.completion)
                if progress is not None:
                    progress(len(completions), len(streams))
        finally:
            for stream in streams:
                stream.cancel()
        return completions

    @overload
    def samples(
        self, prompt: Prompt, n: int, *, schema: type[T], **settings: Unpack[Keywords]
    ) -> list[Completion[T | None]]: ...
    @overload
    def samples(
        self, prompt: Prompt, n: int, *, schema: object = None, **settings: Unpack[Keywords]
    ) -> list[Completion]: ...
    def samples(
        self, prompt: Prompt, n: int, *, schema: object = None, **settings: Unpack[Keywords]
    ) -> list[Completion]:
        """Return `n` answers to one prompt, which is run once; with a seed, answer i has the seed plus i."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise RequestError(f"n must be a whole number from 1 on, not {n!r}")
        progress, options = _options(settings, schema)
        ids = self.prompts.of_either(prompt, options)
        prepared = self._submitter.prepare(ids, options)
        streams: list[Stream] = [Stream(finish_of(options)) for _ in range(n)]
        answers = [prepared.request(stream.reply, seed_offset=at) for at, stream in enumerate(streams)]
        self._submitter.submit(ids, answers, progress)
        try:
            return [stream.completion for stream in streams]
        finally:
            for stream in streams:
                stream.cancel()

    def run_tools(
        self,
        messages: Dialog,
        tools: Sequence[Tool],
        *,
        max_rounds: int = 8,
        schema: object = None,
        **settings: Unpack[RunKeywords],
    ) -> ToolRun:
        """Answer a dialog, running the functions that the model calls, until it answers without a call.

        Arguments that don't fit are reported to the model; what a function raises comes through. After `max_rounds`
        rounds of calls the model has to answer without tools. `schema` constrains that answer.
        """
        run = ToolRun(list(messages))
        while not run.step(self.chat(run.messages, schema=schema, **run.settings(tools, max_rounds, settings))):
            run.answer_calls(tools)
        return run

    async def arun_tools(
        self,
        messages: Dialog,
        tools: Sequence[Tool],
        *,
        max_rounds: int = 8,
        schema: object = None,
        **settings: Unpack[RunKeywords],
    ) -> ToolRun:
        """Do what `run_tools` does in an event loop; functions that aren't async run in a thread."""
        run = ToolRun(list(messages))
        while not run.step(await self.achat(run.messages, schema=schema, **run.settings(tools, max_rounds, settings))):
            await run.aanswer_calls(tools)
        return run


def _options(settings: JsonMapping, schema: object) -> tuple[ProgressCallback | None, GenerationOptions]:
    """Return the callback and the options out of a method's keyword arguments; raises RequestError."""
    given = {**settings, "schema": schema}
    return given.pop("progress", None), make_options(given)
