"""Loads what a `Llama` is made of: weights, tokenizer, dialog format, adapters, draft model, prefix cache on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from .chat.dialog import Dialog, load_dialog
from .checkpoint.folder import ModelFolder
from .checkpoint.loading import load_model
from .checkpoint.recognition import is_draft_head
from .distributed.settings import NodeOptions
from .engine.settings import EngineSettings
from .errors import RequestError
from .json_types import JsonObject
from .kv_cache import CacheOptions
from .library.download_bar import terminal_bar
from .library.home import prefix_cache_bytes, prefix_folder
from .model.column_order import lay_by_columns
from .model.config import load_json_object
from .model.fused_projections import join_layer
from .model.memory_estimate import RESERVE, kept_unpacked_bytes
from .model.transformer import LlamaForCausalLM
from .prefix_cache.disk import BlockStore, model_fingerprint
from .prefix_cache.disk_queue import DiskPrefixCache, HeadBlocks
from .speculation.eagle_head import EagleHead
from .speculation.eagle_loading import load_head
from .tokenizer.loading import load_tokenizer
from .tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from .adapters.adapter_set import AdapterSet
    from .distributed.loading import Nodes

ProgressCallback = Callable[[int, int], None]
LoadCallback = Callable[["LoadProgress"], None]
_ALONE = NodeOptions()
# Tokens of a prompt that are run at once where one machine begins with the next while others are at these: short enough
# that they seldom wait, long enough for matrix products.
_PIPELINE_CHUNK = 512
# Of the memory beside the model, what the prefix cache may hold.
_PREFIX_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class LoadProgress:
    """How far `Llama.load` is."""

    stage: str
    """`downloading`, in bytes of the files that are missing, or `loading`, in bytes of the weights."""
    name: str
    """The model, draft model or adapter that it is about."""
    done: int
    total: int


@dataclass(kw_only=True)
class ModelParts:
    """What a `Llama` is made of."""

    folder: Path
    model: LlamaForCausalLM
    tokenizer: Tokenizer
    dialog: Dialog | None = None
    cache: CacheOptions = field(default_factory=CacheOptions)
    adapters: "AdapterSet | None" = None
    draft: LlamaForCausalLM | EagleHead | None = None
    disk: DiskPrefixCache | None = None
    adapter_paths: dict[str, Path] = field(default_factory=dict)
    """Shared with the fingerprints of the prefix cache on disk, which need the files of later adapters too."""
    notes: tuple[str, ...] = ()
    """What was decided where the folder's files contradict one another, a line each."""
    group: "Nodes | None" = None
    """The processes that the model lies on, None for this one alone."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer, by the tokenizer and the dialog format."""
        return frozenset((*self.tokenizer.stop_ids, *(self.dialog.stop_ids if self.dialog else ())))

    def generation_defaults(self) -> JsonObject:
        """Return the content of the checkpoint's generation_config.json, empty if it has none."""
        path = self.folder / "generation_config.json"
        return load_json_object(path) if path.exists() else {}

    @property
    def _is_pipeline(self) -> bool:
        return self.group is not None and self.group.shares[0].split == "pipeline"

    def engine_settings(self, memory_bytes: int, max_sequences: int) -> EngineSettings:
        """Return how the engine runs where weights and KV cache may take `memory_bytes` together."""
        config = self.model.config
        modules = [self.model, *([self.draft] if self.draft is not None else [])]
        arrays: list[tuple[str, Any]] = tree_flatten([module.parameters() for module in modules])  # type: ignore[assignment]
        weights = sum(array.nbytes for _, array in arrays)
        if self.group is None:
            weights += kept_unpacked_bytes(config)
        if isinstance(self.draft, LlamaForCausalLM):
            weights += kept_unpacked_bytes(self.draft.config)
        left = max(0, int(memory_bytes * (1 - RESERVE)) - weights)
        # Of a model on several nodes, this one's share.
        layers = self.model.model.layers
        per_token = self.cache.bytes_per_token(
            len(layers), layers[0].self_attn.n_kv_heads, config.head_dim, self.model.dtype.size
        )
        if isinstance(self.draft, EagleHead):
            own, dtype = self.draft.config.layer, self.draft.norm.weight.dtype
            if self.draft.token_ids is not None:
                # Embeddings of the reduced vocabulary, which drafting keeps unpacked.
                left = max(0, left - self.draft.config.draft_vocab_size * own.hidden_size * dtype.size)
            per_token += CacheOptions().bytes_per_token(1, own.num_key_value_heads, own.head_dim, dtype.size)
        if self.group is not None:
            left = self.group.shared_room(left, per_token, self.cache)
        return EngineSettings(
            memory_bytes=left,
            bytes_per_token=per_token,
            prefix_bytes=int(left * _PREFIX_SHARE),
            stop_ids=self.stop_ids,
            xtc_exempt_ids=self.stop_ids | frozenset(self.tokenizer.encode("\n")),
            max_sequences=max_sequences,
            max_chunk=_PIPELINE_CHUNK if self._is_pipeline else EngineSettings.max_chunk,
            cache=self.cache,
        )


def load_parts(
    folder: Path,
    *,
    adapters: Mapping[str, Path],
    dtype: str | None,
    cache: CacheOptions,
    draft: Path | None,
    disk_cache: bool,
    nodes: NodeOptions = _ALONE,
) -> ModelParts:
    """Load everything in the calling thread.

    Raises ConfigError, CheckpointError, TokenizerError, RequestError, or PeerError of a model on several nodes.
    """
    group: Nodes | None = None
    if nodes.nodes > 1:
        # Only here: starting without nodes needs none of it.
        from .distributed.loading import lead, load_split_model
        from .distributed.share_files import open_unfetched

        opened = open_unfetched(folder)
        # What is wrong with the folder is said before others are waited for.
        tokenizer = load_tokenizer(opened)
        group = lead(nodes.nodes)
        model: LlamaForCausalLM = load_split_model(opened, group, split=nodes.split, dtype=dtype)
    else:
        opened = ModelFolder(folder)
        model, tokenizer = load_model(opened, dtype=dtype), load_tokenizer(opened)
    dialog = load_dialog(opened, tokenizer)
    paths = dict(adapters)
    drafter = None if draft is None else load_draft(draft, model, tokenizer, dtype)
    head = (drafter, draft) if isinstance(drafter, EagleHead) and draft is not None else None
    return ModelParts(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        dialog=dialog,
        cache=cache,
        adapters=_load_adapters(model, paths, group) if paths else None,
        draft=drafter,
        disk=_disk_prefix_cache(folder, model, paths, cache, group, head) if disk_cache else None,
        adapter_paths=paths,
        group=group,
        notes=opened.notes,
    )


def load_draft(
    folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, dtype: str | None
) -> LlamaForCausalLM | EagleHead:
    """Load what drafts for the model, a smaller model or a draft head; raises RequestError if it doesn't fit."""
    if is_draft_head(load_json_object(folder / "config.json")):
        head = load_head(folder, model.config, dtype=dtype)
        join_layer(head.layers[0])
        lay_by_columns(head)
        mx.eval(head.parameters())
        return head
    sample = "The quick brown fox, 12345 äöü: def f(x):\n\treturn x  # 你好"
    theirs = load_tokenizer(folder)
    if theirs.vocab_size != tokenizer.vocab_size or theirs.encode(sample) != tokenizer.encode(sample):
        raise RequestError(f"the draft model {folder.name} has another tokenizer: choose one of the same family")
    return load_model(folder, dtype=dtype)


def make_adapter_set(model: LlamaForCausalLM, group: "Nodes | None") -> "AdapterSet":
    """Return an empty set of adapters over a model, which may lie on several nodes."""
    if group is not None:
        from .distributed.split_adapters import LeaderAdapters

        return LeaderAdapters(model, group)
    from .adapters.adapter_set import AdapterSet

    return AdapterSet(model)


def _load_adapters(model: LlamaForCausalLM, paths: Mapping[str, Path], group: "Nodes | None") -> "AdapterSet":
    loaded = make_adapter_set(model, group)
    for name, path in paths.items():
        loaded.load(name, path)
    return loaded


def _disk_prefix_cache(
    folder: Path,
    model: LlamaForCausalLM,
    adapters: Mapping[str, Path],
    cache: CacheOptions,
    group: "Nodes | None",
    head: tuple[EagleHead, Path] | None,
) -> DiskPrefixCache | None:
    """Return what keeps the model's prefixes on disk, None where that is switched off; `head` with its folder."""
    limit = prefix_cache_bytes()
    if not limit:
        return None
    dtype = str(model.dtype)
    kind = cache.label
    if group is not None:
        from .distributed.prefix_parts import LeaderPrefixes, part_label

        kind = part_label(cache, group.shares[0])

    def fingerprint(adapter: str | None) -> str:
        path = adapters[adapter].expanduser() if adapter is not None and adapter in adapters else None
        return model_fingerprint(folder, dtype=dtype, cache_kind=kind, adapter=path)

    blocks = None
    if head is not None:
        # Listed under a name of their own: they are no tokens more.
        store = BlockStore(prefix_folder(), limit, model=f"{folder.name}, draft head {head[1].name}")
        its_dtype = str(head[0].norm.weight.dtype)
        blocks = HeadBlocks(store, head[0].make_cache, model_fingerprint(head[1], dtype=its_dtype, cache_kind="head"))
    store = BlockStore(prefix_folder(), limit, model=folder.name)
    make = partial(model.make_cache, cache)
    if group is not None:
        return LeaderPrefixes(store, make, fingerprint, group.leader, blocks)
    return DiskPrefixCache(store, make, fingerprint, blocks)


def downloaded(resolve: Callable[..., Path], name: str | Path, progress: LoadCallback | None) -> Path:
    """Return the folder that a resolver gives, with its download shown or told to `progress`."""
    if progress is None:
        with terminal_bar(str(name)) as report:
            return resolve(name, report=report)

    def tell(done: int, total: int) -> None:
        progress(LoadProgress(stage="downloading", name=str(name), done=done, total=total))

    return resolve(name, report=tell)
