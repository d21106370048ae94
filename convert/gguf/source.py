"""A GGUF file, or its split parts, as a source: dequantized, renamed, query and key rows back in halves.

Source of the names and the row order: llama.cpp `gguf-py/gguf/constants.py` and `convert_hf_to_gguf.py` (`permute`).
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...errors import CheckpointError
from ...files import printable
from ...json_types import JsonValue
from ...model.config import ModelConfig
from ...model.parameters import check_tensors, expected_tensors
from ..sources.rotary_rows import read_halves
from ..sources.side_files import generation_config, write_json
from ..sources.source import Fingerprint, TensorRef, file_facts, main_dtype
from .config import read_config
from .file import GGUFFile, GGUFTensor, unreadable_kinds
from .tokenizer import save_tokenizer, tokenizer_note

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
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<parts>\d{5})(?P<suffix>\.gguf)\Z", re.IGNORECASE)


class GGUFSource:
    """Weights, config and tokenizer of a Llama in GGUF."""

    def __init__(self, path: Path) -> None:
        self.location = path
        self.base_model: str | None = None
        self.description = f"GGUF file {printable(path.name)}"
        self.is_mlx_quantized = False
        self.lost_scales: str | None = None
        self.notes: list[str] = []
        self._files: list[GGUFFile] = []
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        self._files += [GGUFFile(part) for part in split_files(path)]
        self._fields = {key: value for file in reversed(self._files) for key, value in file.fields.items()}
        self._tensors: dict[str, tuple[GGUFFile, GGUFTensor]] = {}
        for file in self._files:
            for tensor in file.tensors.values():
                name = from_gguf_name(tensor.name)
                if name in self._tensors:
                    raise CheckpointError(f"{file.path}: {tensor.name} stands in another part, too")
                self._tensors[name] = (file, tensor)
        missing = unreadable_kinds(tensor for _, tensor in self._tensors.values())
        if missing:
            raise CheckpointError(f"{path} has tensors of type {', '.join(missing)}, which can't be dequantized here")
        self.dtype: str | None = main_dtype((tensor.kind, tensor.shape) for _, tensor in self._tensors.values())
        factors = self._tensors.pop("rope_freqs.weight", None)
        note = tokenizer_note(self.field)
        self.notes += [note] if note else []
        self.config: ModelConfig = read_config(
            self.field,
            rope_factors=None if factors is None else factors[0].read(factors[1], 0, factors[1].shape[0]),
            shapes={name: tensor.shape for name, (_, tensor) in self._tensors.items()},
            dtype=self.dtype or "F16",
            where=path,
        )
        shapes = {name: tensor.shape for name, (_, tensor) in self._tensors.items()}
        check_tensors(expected_tensors(self.config), shapes, path)

    def field(self, key: str, default: JsonValue = None) -> JsonValue:
        """Return a metadata value."""
        return self._fields.get(key, default)

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the tensors in the model's order."""
        for name, shape in expected_tensors(self.config).items():
            file, tensor = self._tensors[name]
            read = partial(file.read, tensor)
            if "self_attn.q_proj." in name:
                read = partial(read_halves, read, shape[0] // self.config.num_attention_heads)
            elif "self_attn.k_proj." in name:
                read = partial(read_halves, read, shape[0] // self.config.num_key_value_heads)
            yield TensorRef(name, shape, tensor.dtype, tensor.kind, tensor.nbytes, read, tensor.group_size)

    def channel_scales(self) -> None:
        """Return None: the channels are those that the model was trained with."""

    def fingerprint(self) -> Fingerprint:
        """Return names, sizes and times of the files."""
        return {"files": [file_facts(file.path) for file in self._files]}

    def save_side_files(self, folder: Path) -> None:
        """Write tokenizer and generation config out of the metadata."""
        save_tokenizer(self.field, folder)
        write_json(folder / "generation_config.json", generation_config(self.config))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def split_files(path: Path) -> list[Path]:
    """Return all parts of a split file, or the file itself; raises CheckpointError naming missing ones."""
    match = _SPLIT.match(path.name)
    if not match:
        return [path]
    parts = int(match["parts"])
    files = [path.with_name(f"{match['stem']}-{n:05d}-of-{parts:05d}{match['suffix']}") for n in range(1, parts + 1)]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise CheckpointError(f"{path.parent} lacks {', '.join(missing)}")
    return files


def from_gguf_name(name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor; unknown names come back as they are."""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in TOP_NAMES:
        return f"{TOP_NAMES[parts[0]]}.{parts[1]}"
    return name
