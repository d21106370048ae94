"""The `Llama` object: a loaded model with its tokenizer and dialog format, ready to generate and to chat."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import mlx.core as mx

from .chat.messages import MessageMapping
from .device import in_own_thread, working_memory_bytes
from .distributed.settings import NodeOptions
from .engine.engine import Engine
from .engine.reply import Reply
from .errors import EngineClosedError, PeerError
from .generating import GeneratingMethods
from .generation.limits import check_fits
from .generation.options import GenerationOptions
from .json_types import JsonMapping
from .kv_cache import CacheOptions
from .library.resolver import resolve_adapter, resolve_draft, resolve_model
from .loader import (
    LoadCallback,
    LoadProgress,
    ModelParts,
    ProgressCallback,
    downloaded,
    load_parts,
    make_adapter_set,
)
from .model.transformer import LlamaForCausalLM
from .needs import ModelNeeds, estimate_needs
from .prompts import PromptBuilder
from .submission import DEFAULT_ADAPTER, Submitter
from .tools.functions import Tool

if TYPE_CHECKING:
    from .adapters.adapter_set import AdapterSet
    from .distributed.loading import Nodes

T = TypeVar("T")


class Llama(GeneratingMethods):
    """A model of the Llama family in memory, used from any thread or event loop.

    Make one with `Llama.load`, and give its memory back with `close` or at the end of a `with` block. `generate` and
    `stream` continue a text, `chat` and `stream_chat` answer a dialog; those that begin with `a` are for `async` code.
    """

    def __init__(self, parts: ModelParts, *, memory_bytes: int | None = None, max_sequences: int = 32) -> None:
        """Take what `load_parts` has loaded; see `load` for the limits."""
        self.folder, self.tokenizer, self.dialog = parts.folder, parts.tokenizer, parts.dialog
        # What was decided where the folder's files contradict one another, a line each.
        self.notes = parts.notes
        # None once closed.
        self._model: LlamaForCausalLM | None = parts.model
        self.config = parts.model.config
        # What is computed lazily can only be computed on the thread that made it.
        mx.eval(parts.model.parameters(), parts.draft.parameters() if parts.draft is not None else [])
        self.cache_options, self.stop_ids = parts.cache, parts.stop_ids
        self.prompts = PromptBuilder(parts.tokenizer, parts.dialog, self.config.vocab_size, parts.folder.name)
        self._adapters, self._adapter_paths = parts.adapters, parts.adapter_paths
        self._group = parts.group
        available = working_memory_bytes() if memory_bytes is None else memory_bytes
        self.engine = Engine(
            parts.model,
            parts.engine_settings(available, max_sequences),
            parts.tokenizer.make_detokenizer,
            adapters=parts.adapters,
            draft=parts.draft,
            disk=parts.disk,
            explain=_unchanged if self._group is None else self._group.leader.explain,
        )
        this = weakref.ref(self)
        self._submitter = Submitter(parts, self.engine, lambda: llama.adapter_names if (llama := this()) else ())
        self._close = weakref.finalize(self, _close, self.engine, self._group)
        if self._group is not None:
            self._group.leader.on_failure(self.engine.break_off)

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
        nodes: int = 1,
        split: str = "auto",
        progress: LoadCallback | None = None,
    ) -> "Llama":
        """Load a model.

        Args:
            path_or_id: A folder, or a Hub id (`owner/name`), which is downloaded if need be.
            adapter: A LoRA adapter that is applied to all answers.
            adapters: Adapters by name, for answers that ask for them.
            dtype: float32, float16 or bfloat16; by default what suits the device.
            cache: The kind of KV cache.
            draft: What drafts tokens for this model: a smaller one of the same tokenizer, or an EAGLE-3 draft head.
            disk_cache: Whether long prompts are kept for later processes, up to `LLAMA3_MLX_CACHE_GB`.
            memory_gb: A bound on weights and KV cache together; by default what the device can use.
            max_sequences: How many answers are generated at once; others wait.
            nodes: Over how many processes the model is split: those of `mlx.launch`, or else started on this machine.
            split: `tensor` (heads and columns), `pipeline` (whole layers) or `auto`.
            progress: Called with a LoadProgress at each step of downloading and loading, from any thread. By default a
                download shows a bar on stderr where that is a terminal.

        Raises:
            ConfigError, CheckpointError, TokenizerError, HubError: The model can't be loaded.
            RequestError: An argument doesn't fit.
            PeerError: One of several processes is missing or doesn't fit the others.
        """
        options = NodeOptions(nodes=nodes, split=split)
        # Of a model on several nodes, each downloads what it needs.
        folder = downloaded(partial(resolve_model, weights=nodes == 1), path_or_id, progress)
        draft_folder = None if draft is None else downloaded(resolve_draft, draft, progress)
        named = {**({DEFAULT_ADAPTER: adapter} if adapter is not None else {}), **(adapters or {})}
        paths = {name: downloaded(resolve_adapter, path, progress) for name, path in named.items()}
        total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

        def told(done: int) -> None:
            if progress is not None:
                progress(LoadProgress(stage="loading", name=str(path_or_id), done=done, total=total))

        def build() -> "Llama":
            parts = load_parts(
                folder,
                adapters=paths,
                dtype=dtype,
                cache=cache or CacheOptions(),
                draft=draft_folder,
                disk_cache=disk_cache,
                nodes=options,
            )
            memory_bytes = None if memory_gb is None else int(memory_gb * 1e9)
            return cls(parts, memory_bytes=memory_bytes, max_sequences=max_sequences)

        told(0)
        llama = in_own_thread(build)
        told(total)
        return llama

    @staticmethod
    def estimate(path_or_id: str | Path, *, dtype: str | None = None) -> ModelNeeds:
        """Return what a model will need in memory, from its config.json alone: of a Hub id nothing else is fetched.

        `dtype` is that of the KV cache and of weights that aren't quantized, by default as stored. Raises
        CheckpointError, ConfigError or HubError.
        """
        return estimate_needs(path_or_id, dtype)

    def encode_chat(
        self,
        messages: Sequence[MessageMapping],
        *,
        tools: Iterable[Tool] = (),
        template_options: JsonMapping | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> list[int]:
        """Return the token ids of a dialog up to the beginning of the next answer; see `PromptBuilder.chat`."""
        return self.prompts.chat(
            messages,
            tools=tools,
            template_options=template_options,
            add_generation_prompt=add_generation_prompt,
            continue_final=continue_final,
        )

    def logits(self, token_ids: Sequence[int]) -> mx.array:
        """Return the logits after each token, (L, V) float32; raises RequestError for ids outside the vocabulary."""
        token_ids = self.prompts.text(token_ids)
        check_fits(token_ids, self.config.max_position_embeddings)

        def run(model: LlamaForCausalLM) -> mx.array:
            logits = model(mx.array([list(token_ids)], mx.int32))[0].astype(mx.float32)
            mx.eval(logits)
            return logits

        return self.compute(run)

    def compute(self, work: Callable[[LlamaForCausalLM], T]) -> T:
        """Return what `work` makes of the model, with its adapter applied; arrays in it have to be evaluated.

        It runs on the engine's thread, so nothing is generated in the meantime.
        """

        def run() -> T:
            if self.adapters is not None:
                self.adapters.select(DEFAULT_ADAPTER if DEFAULT_ADAPTER in self.adapters.names else None)
            return work(self.model)

        return self.engine.call(run)

    def submit(
        self,
        prompt: Sequence[int],
        options: Sequence[GenerationOptions],
        replies: Sequence[Reply],
        *,
        at_most: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Hand the engine a prompt in token ids and the answers requested to it, for callers with their own replies.

        An answer ends after `at_most` tokens, too, which unlike `max_tokens` may be more than context and memory leave.
        """
        prepared = self._submitter.prepare_all(prompt, options)
        answers = [each.request(reply, at_most=at_most) for each, reply in zip(prepared, replies, strict=True)]
        self._submitter.submit(prompt, answers, progress)

    @property
    def model(self) -> LlamaForCausalLM:
        """The network. Raises EngineClosedError after `close`."""
        if self._model is None:
            raise EngineClosedError
        return self._model

    @property
    def n_nodes(self) -> int:
        """Over how many processes the model lies."""
        return 1 if self._group is None else len(self._group.shares)

    @property
    def adapters(self) -> "AdapterSet | None":
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
            adapters = self.adapters if self.adapters is not None else make_adapter_set(self.model, self._group)
            adapters.load(name, path)
            self._adapters = self.engine.adapters = adapters
            self._adapter_paths[name] = Path(path)

        self.engine.call(run)

    def on_lost(self, listener: Callable[[PeerError], object]) -> None:
        """Call `listener`, in a thread of its own, when a process of a model on several nodes is gone.

        What runs has then ended with that error, and nothing more can be generated.
        """
        if self._group is not None:
            self._group.leader.on_failure(listener)

    def release_memory(self) -> None:
        """Let go of kept prefixes and of free memory; call it when the system says that memory is short."""
        self.engine.call(self.engine.relieve)

    def limit_memory(self, memory_gb: float) -> None:
        """Change what weights and KV cache may take together; kept prefixes beyond that are let go."""

        def run() -> None:
            parts = ModelParts(
                folder=self.folder,
                model=self.model,
                tokenizer=self.tokenizer,
                cache=self.cache_options,
                group=self._group,
            )
            settings = parts.engine_settings(int(memory_gb * 1e9), self.engine.settings.max_sequences)
            self.engine.limit(settings.memory_bytes, settings.prefix_bytes)

        self.engine.call(run)

    def close(self) -> None:
        """End what runs and give the memory back; what needs the model raises EngineClosedError afterwards."""
        self._close()
        self._model = self._adapters = None

    def __reduce__(self) -> str:
        # pickle and copy ask for this: multiprocessing does both to what is handed to a worker.
        raise TypeError(
            "a Llama can't be pickled or copied, since its weights and its thread belong to one process: hand over "
            "the folder and call Llama.load in the other process"
        )

    def __enter__(self) -> "Llama":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(engine: Engine, group: "Nodes | None") -> None:
    """Close the engine, then give back what its model takes on other nodes."""
    engine.close()
    if group is not None:
        from .distributed.loading import release

        group.leader.forget(engine.break_off)
        release(group)


def _unchanged(error: Exception) -> Exception:
    return error
