"""The `Llama` object: a loaded model with its tokenizer and dialog format, ready to generate and to chat."""

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx

from .chat.dialog import Dialog, load_dialog
from .checkpoint.loading import load_model
from .device import in_own_thread, working_memory_bytes
from .engine.engine import Engine
from .engine.reply import AsyncStream, Reply, Stream
from .engine.request import AnswerRequest, Request
from .engine.settings import EngineSettings
from .errors import DialogError, EngineClosedError, RequestError
from .generation.completion import Completion
from .generation.keywords import GenerationKeywords
from .generation.limits import check_fits, check_length, check_memory
from .generation.options import GenerationOptions, make_options
from .generation.tool_loop import ToolRun
from .kv_cache import CacheOptions
from .library.home import prefix_cache_bytes, prefix_folder
from .library.hub import resolve_model
from .model.config import load_json_object
from .model.memory_estimate import RESERVE
from .model.transformer import LlamaForCausalLM
from .prefix_cache.disk import BlockStore, model_fingerprint
from .prefix_cache.disk_queue import DiskPrefixCache
from .tokenizer.loading import load_tokenizer
from .tokenizer.tokenizer import Tokenizer
from .tools.functions import Tool

Message = Mapping[str, Any]
Prompt = str | Sequence[int] | Sequence[Message]
Progress = Callable[[int, int], None]
# Of the memory beside the model, what prefixes may keep for later prompts.
_PREFIX_SHARE = 0.25
DEFAULT_ADAPTER = "adapter"


class Llama:
    """A model of the Llama family in memory, used from any thread or event loop.

    Make one with `Llama.load`, and give its memory back with `close` or at the end of a `with` block. `generate` and
    `stream` continue a text, `chat` and `stream_chat` answer a dialog; those that begin with `a` are for `async` code.
    """

    def __init__(
        self,
        folder: Path,
        model: LlamaForCausalLM,
        tokenizer: Tokenizer,
        dialog: Dialog | None,
        *,
        cache: CacheOptions | None = None,
        adapters: Any = None,
        draft: LlamaForCausalLM | None = None,
        disk: DiskPrefixCache | None = None,
        adapter_places: dict[str, Path] | None = None,
        memory_bytes: int | None = None,
        max_sequences: int = 32,
    ) -> None:
        self.folder, self.tokenizer, self.dialog = folder, tokenizer, dialog
        # None once closed.
        self._model: LlamaForCausalLM | None = model
        self.config = model.config
        # What is computed lazily can only be computed on the thread that made it.
        mx.eval(model.parameters(), draft.parameters() if draft is not None else [])
        self.cache_options = cache or CacheOptions()
        self._adapters = adapters
        # Shared with the disk's fingerprints, which need the files of adapters that come later, too.
        self._adapter_places = {} if adapter_places is None else adapter_places
        self.stop_ids = frozenset((*tokenizer.stop_ids, *(dialog.stop_ids if dialog else ())))
        path = folder / "generation_config.json"
        self._defaults = load_json_object(path) if path.exists() else {}
        self._default_adapter = DEFAULT_ADAPTER if adapters and DEFAULT_ADAPTER in adapters.names else None
        self.engine = Engine(
            model,
            self._engine_settings(working_memory_bytes() if memory_bytes is None else memory_bytes, max_sequences),
            tokenizer.make_detokenizer,
            adapters=adapters,
            draft=draft,
            disk=disk,
        )
        self._close = weakref.finalize(self, Engine.close, self.engine)

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        dtype: str | None = None,
        cache: CacheOptions | None = None,
        draft: str | Path | None = None,
        disk_cache: bool = True,
        memory_gb: float | None = None,
        max_sequences: int = 32,
    ) -> "Llama":
        """Load a folder or a Hub id (`owner/name`), with a LoRA adapter for all answers or several by name.

        `dtype` is float32, float16 or bfloat16; by default what suits the device. `draft` is a smaller model of the
        same tokenizer that drafts tokens for this one. `disk_cache` keeps long prompts for later processes, up to
        `LLAMA3_MLX_CACHE_GB`. `memory_gb` bounds weights, keys and values together, by default at what the device can
        use. Up to `max_sequences` answers are written at once, others wait. Raises ConfigError, CheckpointError,
        TokenizerError or HubError.
        """
        folder = resolve_model(path_or_id)
        draft_folder = None if draft is None else resolve_model(draft)
        named = {**({DEFAULT_ADAPTER: adapter} if adapter is not None else {}), **(adapters or {})}
        places = {name: Path(path) for name, path in named.items()}

        def build() -> "Llama":
            model, tokenizer = load_model(folder, dtype=dtype), load_tokenizer(folder)
            loaded = None
            if named:
                from .adapters.adapter_set import AdapterSet

                loaded = AdapterSet(model)
                for name, path in named.items():
                    loaded.load(name, path)
            return cls(
                folder,
                model,
                tokenizer,
                load_dialog(folder, tokenizer),
                cache=cache,
                adapters=loaded,
                draft=None if draft_folder is None else load_draft(draft_folder, tokenizer, dtype),
                disk=make_disk(folder, model, places, cache or CacheOptions()) if disk_cache else None,
                adapter_places=places,
                memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
                max_sequences=max_sequences,
            )

        return in_own_thread(build)

    def generate(self, prompt: str | Sequence[int], **settings: Unpack[GenerationKeywords]) -> Completion:
        """Continue a text (or token ids, taken as they are) and return the completion."""
        return self.stream(prompt, **settings).completion

    def stream(self, prompt: str | Sequence[int], **settings: Unpack[GenerationKeywords]) -> Stream:
        """Continue a text, piece by piece."""
        return self._stream(self._prompt_ids(prompt), make_options(settings))

    def chat(self, messages: Sequence[Message], **settings: Unpack[GenerationKeywords]) -> Completion:
        """Answer a dialog of `{"role", "content"}` messages and return the completion."""
        return self.stream_chat(messages, **settings).completion

    def stream_chat(self, messages: Sequence[Message], **settings: Unpack[GenerationKeywords]) -> Stream:
        """Answer a dialog, piece by piece."""
        return self._stream(*self._dialog_and_options(messages, settings))

    async def agenerate(self, prompt: str | Sequence[int], **settings: Unpack[GenerationKeywords]) -> Completion:
        """Continue a text and return the completion; cancelling the task ends the generation."""
        return await _finished(self.astream(prompt, **settings))

    def astream(self, prompt: str | Sequence[int], **settings: Unpack[GenerationKeywords]) -> AsyncStream:
        """Continue a text: `async for piece in llama.astream(...)`."""
        return self._astream(self._prompt_ids(prompt), make_options(settings))

    async def achat(self, messages: Sequence[Message], **settings: Unpack[GenerationKeywords]) -> Completion:
        """Answer a dialog and return the completion; cancelling the task ends the generation."""
        return await _finished(self.astream_chat(messages, **settings))

    def astream_chat(self, messages: Sequence[Message], **settings: Unpack[GenerationKeywords]) -> AsyncStream:
        """Answer a dialog: `async for piece in llama.astream_chat(messages)`."""
        return self._astream(*self._dialog_and_options(messages, settings))

    def generate_batch(
        self, prompts: Iterable[Prompt], *, progress: Progress | None = None, **settings: Unpack[GenerationKeywords]
    ) -> list[Completion]:
        """Continue texts (or token ids) and answer dialogs, all at once; return the completions in their order.

        `progress` is called with (completions so far, all). Prompts that are refused are so before anything starts.
        """
        options = make_options(settings)
        prepared = [self._prepare(self._any_prompt(prompt), options) for prompt in prompts]
        streams = []
        for ids, asked, limit, constraint in prepared:
            stream = Stream(self._finisher(asked))
            self._submit(ids, [AnswerRequest(asked, stream.reply, limit, constraint)], bulk=True)
            streams.append(stream)
        done = []
        try:
            for stream in streams:
                done.append(stream.completion)
                if progress is not None:
                    progress(len(done), len(streams))
        finally:
            for stream in streams:
                stream.cancel()
        return done

    def samples(self, prompt: Prompt, n: int, **settings: Unpack[GenerationKeywords]) -> list[Completion]:
        """Return `n` answers to one prompt, which is run once; with a seed, answer i has the seed plus i."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise RequestError(f"n must be a whole number from 1 on, not {n!r}")
        ids, options, limit, constraint = self._prepare(self._any_prompt(prompt), make_options(settings))
        streams = [Stream(self._finisher(options)) for _ in range(n)]
        asks = [
            AnswerRequest(with_seed(options, at), stream.reply, limit, constraint) for at, stream in enumerate(streams)
        ]
        self._submit(ids, asks)
        return [stream.completion for stream in streams]

    def run_tools(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, max_rounds: int = 8, **settings: Any
    ) -> ToolRun:
        """Answer a dialog, running the functions that the model calls, until it answers without a call.

        Arguments that don't fit are told to the model; what a function raises comes through. After `max_rounds` rounds
        of calls the model has to answer without tools.
        """
        run = ToolRun(list(messages))
        while not run.step(self.chat(run.messages, **run.settings(tools, max_rounds, settings))):
            run.answer_calls(tools)
        return run

    async def arun_tools(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, max_rounds: int = 8, **settings: Any
    ) -> ToolRun:
        """Do what `run_tools` does in an event loop; functions that aren't async run in a thread."""
        run = ToolRun(list(messages))
        while not run.step(await self.achat(run.messages, **run.settings(tools, max_rounds, settings))):
            await run.aanswer_calls(tools)
        return run

    def encode_chat(self, messages: Sequence[Message], **rendering: Any) -> list[int]:
        """Return the token ids of a dialog up to the beginning of the next answer."""
        if self.dialog is None:
            raise DialogError(f"{self.folder.name} is a base model without a dialog format: use generate or --raw")
        return self.dialog.encode(messages, **rendering)

    def logits(self, token_ids: Sequence[int]) -> mx.array:
        """Return the logits after each token, (L, V) float32."""
        check_fits(token_ids, self.config.max_position_embeddings)

        def run() -> mx.array:
            if self.adapters is not None:
                self.adapters.select(self._default_adapter)
            logits = self.model(mx.array([list(token_ids)], mx.int32))[0].astype(mx.float32)
            mx.eval(logits)
            return logits

        return self.engine.call(run)

    def submit(
        self,
        prompt: Sequence[int],
        options: Sequence[GenerationOptions],
        replies: Sequence[Reply],
        *,
        at_most: int | None = None,
    ) -> None:
        """Hand the engine a prompt in token ids and the answers wanted to it, for callers with their own replies.

        An answer ends after `at_most` tokens, too, which unlike `max_tokens` may be more than context and memory leave.
        """
        prepared: list[tuple[list[int], GenerationOptions, int, Any]] = []
        for each in options:
            # Answers that differ in their seeds alone share one form: compiling it may take long.
            alike = bool(prepared) and replace(each, seed=None) == replace(options[0], seed=None)
            prepared.append(self._prepare(list(prompt), each, prepared[0][3] if alike else None))
        asks = [
            AnswerRequest(asked, reply, limit if at_most is None else min(limit, at_most), constraint)
            for (_, asked, limit, constraint), reply in zip(prepared, replies, strict=True)
        ]
        self._submit(list(prompt), asks)

    @property
    def model(self) -> LlamaForCausalLM:
        """The network. Raises EngineClosedError after `close`."""
        if self._model is None:
            raise EngineClosedError
        return self._model

    @property
    def adapters(self) -> Any:
        """The set of loaded adapters, None if there are none. Raises EngineClosedError after `close`."""
        if self._model is None:
            raise EngineClosedError
        return self._adapters

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters that answers can ask for."""
        return self.adapters.names if self.adapters is not None else ()

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Load a LoRA adapter under a name, while others run. Raises RequestError, CheckpointError or ConfigError."""

        def run() -> None:
            from .adapters.adapter_set import AdapterSet

            adapters = self.adapters if self.adapters is not None else AdapterSet(self.model)
            adapters.load(name, path)
            self._adapters = self.engine.adapters = adapters
            self._adapter_places[name] = Path(path)

        self.engine.call(run)

    def release_memory(self) -> None:
        """Let go of kept prefixes and of free memory; call it when the system says that memory is short."""
        self.engine.call(self.engine.relieve)

    def close(self) -> None:
        """End what runs and give the memory back; what needs the model raises EngineClosedError afterwards."""
        self._close()
        self._model = self._adapters = None

    def __enter__(self) -> "Llama":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            if not prompt:
                raise RequestError("the prompt is empty: give a text or token ids")
            return self.tokenizer.encode(prompt, bos=True)
        wrong = [token for token in prompt if not 0 <= token < self.config.vocab_size]
        if wrong:
            raise RequestError(f"token id {wrong[0]} is outside the vocabulary of {self.config.vocab_size}")
        return list(prompt)

    def _any_prompt(self, prompt: Any) -> list[int]:
        if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
            return self.encode_chat(prompt)
        return self._prompt_ids(prompt)

    def _prepare(
        self, prompt: list[int], options: GenerationOptions, constraint: Any = None
    ) -> tuple[list[int], GenerationOptions, int, Any]:
        """Return prompt, options filled in, the tokens that may be written and the compiled form; raises if refused."""
        options = options.with_defaults(self._defaults)
        options = replace(options, adapter=self._adapter_name(options.adapter))
        window = self.cache_options.window
        context = self.config.max_position_embeddings if window is None else max(window, 2**31)
        limit = check_length(prompt, options.max_tokens, context)
        if window is None:
            settings = self.engine.settings
            limit = check_memory(prompt, options.max_tokens, limit, settings.memory_bytes, settings.bytes_per_token)
        if options.is_constrained and constraint is None:
            constraint = self._compile(options)
        return prompt, options, limit, constraint

    def _dialog_and_options(
        self, messages: Sequence[Message], settings: Mapping[str, Any]
    ) -> tuple[list[int], GenerationOptions]:
        options = make_options(settings)
        if not options.calls_tools:
            return self.encode_chat(messages), options
        from .tools.functions import tool_specs

        return self.encode_chat(messages, tools=tool_specs(options.tools)), options

    def _compile(self, options: GenerationOptions) -> Any:
        """Return the form that the answer must follow; raises RequestError for one that can't be."""
        from .structured.grammar import compile_grammar

        n_vocab = self.config.vocab_size
        if options.calls_tools:
            choice: Any = options.tool_choice
            return compile_grammar(
                self.tokenizer,
                n_vocab=n_vocab,
                tools=options.tools,
                tool_choice=choice,
                several_calls=options.parallel_calls,
            )
        return compile_grammar(
            self.tokenizer,
            n_vocab=n_vocab,
            schema=options.schema,
            regex=options.regex,
            grammar=options.grammar,
            choices=options.choices or None,
        )

    def _adapter_name(self, asked: str | None) -> str | None:
        if asked is None:
            return self._default_adapter
        known = self.adapters.names if self.adapters is not None else ()
        if asked not in known:
            raise RequestError(f"there is no adapter {asked!r}; loaded are {', '.join(known) or 'none'}")
        return asked

    def _stream(self, ids: list[int], options: GenerationOptions, progress: Progress | None = None) -> Stream:
        ids, options, limit, constraint = self._prepare(ids, options)
        stream = Stream(self._finisher(options))
        self._submit(ids, [AnswerRequest(options, stream.reply, limit, constraint)], progress)
        return stream

    def _astream(self, ids: list[int], options: GenerationOptions) -> AsyncStream:
        ids, options, limit, constraint = self._prepare(ids, options)
        stream = AsyncStream(self._finisher(options))
        self._submit(ids, [AnswerRequest(options, stream.reply, limit, constraint)])
        return stream

    def _submit(
        self, prompt: list[int], asks: Sequence[AnswerRequest], progress: Progress | None = None, *, bulk: bool = False
    ) -> None:
        """Hand over the answers to one prompt, at most as many at a time as the engine writes at once."""
        first, most = asks[0].options, self.engine.settings.max_sequences
        for at in range(0, len(asks), most):
            part = asks[at : at + most]
            self.engine.submit(
                Request(prompt, part, adapter=first.adapter, priority=first.priority, progress=progress, bulk=bulk)
            )

    def _finisher(self, options: GenerationOptions) -> Callable[[Completion], Completion] | None:
        """Return what puts the object of a schema into a completion."""
        if options.schema is None:
            return None

        def finish(completion: Completion) -> Completion:
            from .structured.result import parse_result

            if completion.finish_reason != "stop":
                return completion
            return replace(completion, parsed=parse_result(options.schema, completion.text))

        return finish

    def limit_memory(self, memory_gb: float) -> None:
        """Change what weights, keys and values may take together; kept prefixes beyond that are let go."""

        def run() -> None:
            settings = self._engine_settings(int(memory_gb * 1e9), self.engine.settings.max_sequences)
            self.engine.limit(settings.memory_bytes, settings.prefix_bytes)

        self.engine.call(run)

    def _engine_settings(self, memory_bytes: int, max_sequences: int) -> EngineSettings:
        config, kind = self.config, self.cache_options
        weights = sum(array.nbytes for _, array in _flat(self.model))
        left = max(0, int(memory_bytes * (1 - RESERVE)) - weights)
        per_token = kind.bytes_per_token(
            config.num_hidden_layers, config.num_key_value_heads, config.head_dim, _float_bytes(self.model)
        )
        return EngineSettings(
            memory_bytes=left,
            bytes_per_token=per_token,
            prefix_bytes=int(left * _PREFIX_SHARE),
            stop_ids=self.stop_ids,
            max_sequences=max_sequences,
            cache=kind,
        )


def make_disk(
    folder: Path, model: LlamaForCausalLM, adapters: Mapping[str, Path], cache: CacheOptions
) -> DiskPrefixCache | None:
    """Return what keeps the model's prefixes on disk, None where that is switched off."""
    limit = prefix_cache_bytes()
    if not limit:
        return None
    dtype = str(model.model.norm.weight.dtype)

    def fingerprint(adapter: str | None) -> str:
        place = adapters[adapter].expanduser() if adapter is not None and adapter in adapters else None
        return model_fingerprint(folder, dtype=dtype, cache_kind=cache.label, adapter=place)

    disk = BlockStore(prefix_folder(), limit, model=folder.name)
    return DiskPrefixCache(disk, partial(model.make_cache, cache), fingerprint)


def load_draft(folder: Path, tokenizer: Tokenizer, dtype: str | None) -> LlamaForCausalLM:
    """Load the model that drafts; raises RequestError if its tokens aren't the other's."""
    sample = "The quick brown fox, 12345 äöü: def f(x):\n\treturn x  # 你好"
    theirs = load_tokenizer(folder)
    if theirs.vocab_size != tokenizer.vocab_size or theirs.encode(sample) != tokenizer.encode(sample):
        raise RequestError(f"the draft model {folder.name} has another tokenizer: choose one of the same family")
    return load_model(folder, dtype=dtype)


def with_seed(options: GenerationOptions, index: int) -> GenerationOptions:
    """Return the options of the answer `index` to one prompt: each has a seed of its own."""
    return options if options.seed is None or not index else replace(options, seed=(options.seed + index) % 2**64)


def _flat(model: LlamaForCausalLM) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())  # type: ignore[return-value]


def _float_bytes(model: LlamaForCausalLM) -> int:
    return model.model.norm.weight.dtype.size


async def _finished(stream: AsyncStream) -> Completion:
    try:
        async for _ in stream:
            pass
    except asyncio.CancelledError:
        stream.cancel()
        raise
    return stream.completion
