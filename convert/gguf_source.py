"""A GGUF file, or its split parts, as a source: dequantised, renamed, query and key rows back in halves.

Source of the names and the row order: llama.cpp `gguf-py/gguf/constants.py` and `convert_hf_to_gguf.py` (`permute`).
"""

import re
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ModelConfig
from ..errors import CheckpointError
from ..weights_layout import check_tensors, expected_tensors
from .gguf_config import read_config
from .gguf_tokenizer import save_tokenizer
from .side_files import generation_config, write_json
from .tensors import TensorRef, file_facts

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf\Z")
_PLAIN = {"F32": "F32", "F16": "F16", "BF16": "BF16"}


class GGUFSource:
    """Weights, config and tokenizer of a Llama in GGUF."""

    def __init__(self, path: Path) -> None:
        self.paths = split_files(path)
        self.location = path
        self.base_model: str | None = None
        self.description = f"GGUF file {path.name}"
        readers = [_open(part) for part in self.paths]
        self._fields = {key: field for reader in reversed(readers) for key, field in reader.fields.items()}
        self._tensors: dict[str, Any] = {}
        for part, reader in zip(self.paths, readers, strict=True):
            for tensor in reader.tensors:
                name = hf_name(tensor.name)
                if name in self._tensors:
                    raise CheckpointError(f"{part}: {tensor.name} stands in it twice")
                self._tensors[name] = tensor
        rope_factors = self._tensors.pop("rope_freqs.weight", None)
        self.config: ModelConfig = read_config(
            self.field,
            rope_factors=None if rope_factors is None else np.array(rope_factors.data),
            has_head="lm_head.weight" in self._tensors,
            has_attention_bias="model.layers.0.self_attn.q_proj.bias" in self._tensors,
            has_mlp_bias="model.layers.0.mlp.up_proj.bias" in self._tensors,
            where=path,
        )
        self.extra_config: dict[str, Any] = {}
        shapes = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in self._tensors.items()}
        check_tensors(expected_tensors(self.config), shapes, path)

    def field(self, key: str, default: Any = None) -> Any:
        """Return a metadata value."""
        return self._fields[key].contents() if key in self._fields else default

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the tensors in the model's order."""
        for name, shape in expected_tensors(self.config).items():
            tensor = self._tensors[name]
            stored = tensor.tensor_type.name
            heads = None
            if name.endswith(("q_proj.weight", "q_proj.bias")):
                heads = self.config.num_attention_heads
            elif name.endswith(("k_proj.weight", "k_proj.bias")):
                heads = self.config.num_key_value_heads
            read = partial(_read, tensor, heads)
            yield TensorRef(name, shape, _PLAIN.get(stored, "F32"), stored, int(tensor.n_bytes), read)

    def fingerprint(self) -> dict[str, Any]:
        """Return names, sizes and times of the files."""
        return {"files": [file_facts(path) for path in self.paths]}

    def save_side_files(self, folder: Path) -> None:
        """Write tokenizer and generation config out of the metadata."""
        save_tokenizer(self.field, folder)
        values = generation_config(self.config)
        write_json(folder / "generation_config.json", values)

    def close(self) -> None:
        """Let go of the mapped files."""
        self._tensors.clear()
        self._fields.clear()


def split_files(path: Path) -> list[Path]:
    """Return all parts of a split file, the file itself if it is whole; raises CheckpointError naming missing ones."""
    match = _SPLIT.match(path.name)
    if not match:
        return [path]
    parts = int(match["parts"])
    files = [path.with_name(f"{match['stem']}-{n:05d}-of-{parts:05d}.gguf") for n in range(1, parts + 1)]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(f"{path.parent} lacks {', '.join(missing)}")
    return files


def hf_name(name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor; unknown names come back as they are."""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in TOP_NAMES:
        return f"{TOP_NAMES[parts[0]]}.{parts[1]}"
    return name


def _open(path: Path) -> Any:
    """Parse a GGUF file; the package raises all kinds of errors on damaged ones."""
    import gguf

    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from None
    if len(head) < 24 or head[:4] != b"GGUF":
        raise CheckpointError(f"{path} is no GGUF file: it doesn't begin with 'GGUF'")
    _, version, n_tensors, n_fields = struct.unpack("<4sIQQ", head)
    # Every tensor and every field takes some bytes of the file; a damaged count must not start a huge loop.
    if version not in (2, 3) or max(n_tensors, n_fields) * 8 > path.stat().st_size:
        raise CheckpointError(f"{path} has a damaged header: version {version}, {n_tensors} tensors, {n_fields} fields")
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or cut short: {error}") from None


def _read(tensor: Any, heads: int | None, start: int, stop: int) -> np.ndarray:
    """Return rows of a tensor; query and key rows are gathered from where GGUF's rotary order put them."""
    from gguf.quants import dequantize

    data = tensor.data
    rows: Any = slice(start, stop)
    if heads is not None:
        rows = interleaved_rows(data.shape[0], heads)[start:stop]
    block = np.ascontiguousarray(data[rows])
    kind = tensor.tensor_type.name
    if kind == "BF16":
        return block.view(np.uint16)
    if kind in _PLAIN:
        return block
    try:
        return dequantize(block, tensor.tensor_type).astype(np.float32, copy=False)
    except NotImplementedError:
        raise CheckpointError(f"{tensor.name} is of type {kind}, which the gguf package can't dequantise") from None


def interleaved_rows(rows: int, heads: int) -> np.ndarray:
    """Return for each row of the half-split layout its place in the interleaved one: 0, 2, 4, … 1, 3, 5, … a head."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)
