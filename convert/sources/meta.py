"""Meta's own checkpoint, `consolidated.NN.pth` with params.json and tokenizer.model, as a source.

The shards are those of Meta's model parallelism: a tensor's parts follow each other along its rows or columns, or are
the same in all. Source: meta-llama/llama-models `models/llama3/model.py` and `generation.py`; the row order of query
and key: transformers `convert_llama_weights_to_hf.py` (permute).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from ...checkpoint.model_files import LICENCES, copy_files
from ...checkpoint.torch_file import TorchFile
from ...dtypes import CONFIG_NAMES
from ...errors import CheckpointError
from ...files import printable
from ...model.config import ModelConfig
from ...model.parameters import check_tensors, expected_tensors
from .meta_config import read_meta_config
from .rotary_rows import read_halves
from .side_files import generation_config, write_json
from .source import Fingerprint, TensorRef, file_facts
from .tokenizer_json import save_beside, tokenizer_json

_LAYER_NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_TOP_NAMES = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
# The matrices whose shapes tell the config.
_TELLING = (
    "tok_embeddings.weight",
    *(f"layers.0.{name}.weight" for name in ("attention.wq", "attention.wk", "feed_forward.w1")),
)
_BY_COLUMNS = ("self_attn.o_proj", "mlp.down_proj")
_SHARD = re.compile(r"consolidated\.(\d+)\.pth\Z")
_STEP_ROWS = 4096

ReadRows = Callable[[int, int], np.ndarray]


class MetaSource:
    """Weights, config and tokenizer of a Llama as Meta ships it."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.location = folder
        self.base_model: str | None = None
        self.description = f"Meta folder {printable(folder.resolve().name)}"
        self.is_mlx_quantized = False
        self.lost_scales: str | None = None
        self.notes: list[str] = []
        self._shards: list[TorchFile] = []
        try:
            self._open(folder)
        except BaseException:
            self.close()
            raise

    def _open(self, folder: Path) -> None:
        if not (folder / "tokenizer.model").is_file():
            raise CheckpointError(f"{folder} lacks tokenizer.model, which belongs to Meta's checkpoints")
        self._shards += [TorchFile(path) for path in shard_files(folder)]
        _check_alike(self._shards)
        self._names = {from_meta_name(name): name for name in self._shards[0].infos if name != "rope.freqs"}
        parts = {name: self._shards[0].infos[theirs].shape for name, theirs in self._names.items()}
        tied = "lm_head.weight" not in parts or self._head_is_embedding()
        self.dtype: str | None = self._shards[0].infos[self._names["model.embed_tokens.weight"]].dtype
        self.config: ModelConfig
        self.config, self._kv_copies = read_meta_config(
            folder / "params.json", parts, n_shards=len(self._shards), tied=tied, dtype=CONFIG_NAMES[self.dtype]
        )
        self._readers = {name: self._reader(name, shape) for name, shape in parts.items()}
        shapes = {name: shape for name, (shape, _) in self._readers.items()}
        check_tensors(expected_tensors(self.config), shapes, folder)
        self._check_replicated()

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the tensors in the model's order."""
        for name, shape in expected_tensors(self.config).items():
            _, read = self._readers[name]
            infos = [shard.infos[self._names[name]] for shard in self._shards]
            yield TensorRef(name, shape, infos[0].dtype, infos[0].dtype, sum(info.nbytes for info in infos), read)

    def channel_scales(self) -> None:
        """Return None: the channels are those that the model was trained with."""

    def fingerprint(self) -> Fingerprint:
        """Return names, sizes and times of the files."""
        files = [*(shard.path for shard in self._shards), self.folder / "params.json", self.folder / "tokenizer.model"]
        return {"files": [file_facts(path) for path in files]}

    def save_side_files(self, folder: Path) -> None:
        """Write tokenizer.json, chat template, generation config and Meta's tokenizer.model; copy the license."""
        context = self.config.max_position_embeddings
        save_beside(self._tokenizer_json, self.folder / "tokenizer.model", folder, context=context)
        sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
        write_json(folder / "generation_config.json", {**generation_config(self.config), **sampling})
        copy_files(self.folder, folder, LICENCES)

    @cached_property
    def _tokenizer_json(self) -> str:
        # Kept, since a conversion writes the side files several times.
        return tokenizer_json(self.folder / "tokenizer.model")

    def close(self) -> None:
        """Close the shards."""
        for shard in self._shards:
            shard.close()

    def _reader(self, name: str, part: tuple[int, ...]) -> tuple[tuple[int, ...], ReadRows]:
        """Return shape and reader of a tensor out of its parts in the shards."""
        reads: list[ReadRows] = [partial(shard.read, self._names[name]) for shard in self._shards]
        n, module = len(reads), name.removesuffix(".weight").split(".", 3)[-1]
        if len(part) == 1:
            return part, reads[0]
        by_columns = module in _BY_COLUMNS or (
            # Llama 2 splits the embedding by columns, Llama 3 by rows.
            name == "model.embed_tokens.weight" and part[1] != self.config.hidden_size
        )
        if by_columns:
            return (part[0], part[1] * n), partial(_read_columns, reads)
        read: ReadRows = partial(_read_rows, reads, part[0])
        rows, head_dim = part[0] * n, self.config.head_dim
        if module in ("self_attn.k_proj", "self_attn.v_proj") and self._kv_copies > 1:
            rows //= self._kv_copies
            read = partial(_read_single, read, head_dim, self._kv_copies, name)
        if module in ("self_attn.q_proj", "self_attn.k_proj"):
            read = partial(read_halves, read, head_dim)
        return (rows, part[1]), read

    def _head_is_embedding(self) -> bool:
        """Return whether the head repeats the embedding, as in the 1B and 3B."""
        head, embedding = self._names["lm_head.weight"], self._names["model.embed_tokens.weight"]
        for shard in self._shards:
            if shard.infos[head].shape != shard.infos[embedding].shape:
                return False
            for start in range(0, shard.infos[head].shape[0], _STEP_ROWS):
                stop = start + _STEP_ROWS
                if not np.array_equal(shard.read(head, start, stop), shard.read(embedding, start, stop)):
                    return False
        return True

    def _check_replicated(self) -> None:
        """Raise CheckpointError if shards differ in what is the same in all: they are of different models."""
        for name, theirs in self._names.items():
            rows = self._shards[0].infos[theirs].shape[0]
            if len(self._shards[0].infos[theirs].shape) > 1:
                continue
            first = self._shards[0].read(theirs, 0, rows)
            for shard in self._shards[1:]:
                if not np.array_equal(first, shard.read(theirs, 0, rows)):
                    raise CheckpointError(
                        f"{shard.path.name} isn't of the same model as {self._shards[0].path.name}: {name} differs"
                    )


def shard_files(folder: Path) -> list[Path]:
    """Return the shards in their order; raises CheckpointError naming those that are missing between."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _SHARD.match(path.name))}
    if not found:
        raise CheckpointError(f"{folder} has no consolidated.NN.pth")
    missing = [f"consolidated.{n:02d}.pth" for n in range(max(found) + 1) if n not in found]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}")
    return [found[n] for n in sorted(found)]


def from_meta_name(name: str) -> str:
    """Return the Hugging Face name of one of Meta's; unknown names come back as they are."""
    path, _, kind = name.rpartition(".")
    layer = re.match(r"layers\.(\d+)\.(.+)\Z", path)
    if layer and layer[2] in _LAYER_NAMES:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{kind}"
    return f"{_TOP_NAMES[path]}.{kind}" if path in _TOP_NAMES else name


def _check_alike(shards: Sequence[TorchFile]) -> None:
    """Raise CheckpointError unless all shards have the same tensors in the same shapes and dtypes."""
    first = _facts(shards[0])
    if any(len(first.get(name, ("", []))[1]) != 2 for name in _TELLING):
        raise CheckpointError(f"{shards[0].path} doesn't hold a Llama in Meta's form")
    for shard in shards[1:]:
        facts = _facts(shard)
        odd = sorted({name for name in first.keys() | facts.keys() if first.get(name) != facts.get(name)})
        if odd:
            name = odd[0]
            raise CheckpointError(
                f"{shard.path.name} isn't of the same model as {shards[0].path.name}: {name} is "
                f"{facts.get(name, 'not there')} and {first.get(name, 'not there')}"
                + (f", and {len(odd) - 1} more differ" if len(odd) > 1 else "")
            )


def _facts(shard: TorchFile) -> Mapping[str, tuple[str, list[int]]]:
    return {name: (info.dtype, list(info.shape)) for name, info in shard.infos.items()}


def _read_rows(reads: Sequence[ReadRows], part_rows: int, start: int, stop: int) -> np.ndarray:
    """Read rows of a tensor whose parts stand below each other."""
    pieces = []
    for n, read in enumerate(reads):
        begin, end = max(start - n * part_rows, 0), min(stop - n * part_rows, part_rows)
        if begin < end:
            pieces.append(read(begin, end))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _read_columns(reads: Sequence[ReadRows], start: int, stop: int) -> np.ndarray:
    """Read rows of a tensor whose parts stand beside each other."""
    return reads[0](start, stop) if len(reads) == 1 else np.concatenate([read(start, stop) for read in reads], axis=1)


def _read_single(read: ReadRows, head_dim: int, copies: int, name: str, start: int, stop: int) -> np.ndarray:
    """Read rows of a tensor whose heads are stored several times one after another; raises where the copies differ."""
    first = start // head_dim
    heads = read(first * copies * head_dim, -(-stop // head_dim) * copies * head_dim)
    heads = heads.reshape(-1, copies, head_dim, heads.shape[1])
    if not (heads == heads[:, :1]).all():
        raise CheckpointError(f"{name}: its key/value heads aren't stored {copies} times each, as these shards should")
    single = heads[:, 0].reshape(-1, heads.shape[3])
    return np.ascontiguousarray(single[start - first * head_dim : stop - first * head_dim])
