"""A GGUF file as a target: tensors renamed, query and key rows interleaved, quantized in ggml's own types.

Source of names, row order and metadata: llama.cpp `convert_hf_to_gguf.py` (LlamaModel) and `gguf-py/gguf/constants.py`.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...checkpoint.safetensors_files import as_mlx
from ...errors import CheckpointError, ConversionError
from ...model.config import ModelConfig
from ...model.parameters import expected_tensors
from ...model.rope import RopeScaling, rope_periods
from ...version import __version__
from ..sources.source import FLOAT_DTYPES, Source, TensorRef
from ..targets.folder import Parts, ValueRangeError, in_range, lossy_source_notes
from ..targets.layout import FileLayout
from ..targets.shard_files import as_numpy
from ..targets.verification import Verification, check_errors, module_error
from .origin import origin_fields
from .source import LAYER_NAMES, TOP_NAMES, GGUFSource
from .tensor_types import FILE_TYPES, encode, tensor_type
from .vocabulary import vocabulary_fields
from .writer import GGUFOutput, gguf_layout

ROPE_FACTORS = "rope_freqs.weight"
# Scales are float16.
_LARGEST = 65504.0
_WIDER = "gguf_type bf16 or f32"


class GGUFTarget:
    """One GGUF file of a type in FILE_TYPES."""

    single_file = True
    reference: Source | None = None

    def __init__(self, source: Source, file_name: str, kind: str) -> None:
        self.source, self._file_name, self.kind = source, file_name, kind
        self._file_type = FILE_TYPES[kind]
        config = source.config
        if config.rope_scaling.rope_type == "dynamic":
            raise ConversionError(
                "GGUF has no dynamic rope scaling: export a model with none, linear or llama3 scaling"
            )
        shapes = expected_tensors(config)
        self.parameters = sum(int(np.prod(shape)) for shape in shapes.values())
        kinds = {name: tensor_type(name, shape, self._file_type, config) for name, shape in shapes.items()}
        self._outputs = {name: GGUFOutput(to_gguf_name(name), shape, kinds[name]) for name, shape in shapes.items()}
        usual = {"F32", self._file_type.base, self._file_type.sensitive, self._file_type.head}
        self._fallbacks = {name: kind for name, kind in kinds.items() if kind not in usual}
        self._factors = rope_factors(config)
        if self._factors is not None:
            factors = GGUFOutput(ROPE_FACTORS, self._factors.shape, "F32")
            self._outputs = {ROPE_FACTORS: factors, **self._outputs}
        fields = self._fields()
        self.layouts: Mapping[str, FileLayout] = {file_name: gguf_layout(fields, list(self._outputs.values()))}
        self.quantizer = f"ggml {kind}" if kind.startswith("q") else None
        digest = hashlib.sha256(self.layouts[file_name].header).hexdigest()
        self.state: Mapping[str, object] = {"version": __version__, "header": digest}

    def _fields(self) -> dict[str, object]:
        with tempfile.TemporaryDirectory() as folder:
            self.source.save_side_files(Path(folder))
            vocabulary = vocabulary_fields(Path(folder), self.source.config)
        return {
            **_model_fields(self.source.config),
            "general.name": (self.source.base_model or Path(self._file_name).stem).rpartition("/")[2],
            **origin_fields(self.source),
            "general.file_type": self._file_type.number,
            "general.quantization_version": 2,
            **vocabulary,
        }

    def refs(self) -> list[TensorRef]:
        """Return the source's tensors, query and key with interleaved rows, and the factors of the rotation."""
        refs = [interleaved(ref, self.source.config) for ref in self.source.tensors()]
        if self._factors is None:
            return refs
        factors = self._factors

        def read(start: int, stop: int) -> np.ndarray:
            return factors[start:stop]

        return [TensorRef(ROPE_FACTORS, factors.shape, "F32", "F32", factors.nbytes, read), *refs]

    def convert(self, ref: TensorRef, start: int, rows: mx.array) -> Parts:
        """Return the rows as the bytes of their type."""
        output = self._outputs[ref.name]
        if output.kind in FLOAT_DTYPES:
            return [(output.name, as_numpy(in_range(ref, rows, output.kind, _WIDER)))]
        values = rows.astype(mx.float32)
        if not (mx.abs(values).max() < _LARGEST).item():
            raise ValueRangeError(f"{ref.name} doesn't fit the range of {output.kind}: choose {_WIDER}")
        return [(output.name, encode(values, output.kind))]

    def write_side_files(self, folder: Path) -> None:
        """Write nothing: the tokenizer is in the file."""

    def write_metadata(self, folder: Path, record: Mapping[str, object]) -> None:
        """Write nothing: the file holds all."""

    def verify(self, folder: Path) -> Verification:
        """Read the file again, as a source, and compare it with the one it came from."""
        written = GGUFSource(folder / self._file_name)
        try:
            if _in_gguf(written.config) != _in_gguf(self.source.config):
                raise CheckpointError(f"{self._file_name}: its metadata describes another model than the source's")
            back = {ref.name: ref for ref in written.tensors()}
            modules = tuple(
                module_error(ref, partial(read_float32, back[ref.name]), back[ref.name].stored)
                for ref in self.source.tensors()
            )
        finally:
            written.close()
        check_errors(modules, self._file_name)
        size = sum(place.nbytes for place in self.layouts[self._file_name].places.values())
        return Verification(len(modules), size, modules)

    def notes(self) -> Iterator[str]:
        """Yield what was lost before, and what was not quantized."""
        yield from self.source.notes
        yield from lossy_source_notes(self.refs(), quantizes=self.quantizer is not None)
        kinds = dict.fromkeys(self._fallbacks.values())
        for kind in kinds:
            names = [name for name, chosen in self._fallbacks.items() if chosen == kind]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"in {kind}, as the blocks of {self.kind} don't divide their rows: {', '.join(names[:3])}{more}"


def _in_gguf(config: ModelConfig) -> ModelConfig:
    """Return what GGUF metadata can say of a config; its numbers are float32."""
    return replace(
        config,
        rms_norm_eps=float(np.float32(config.rms_norm_eps)),
        rope_theta=float(np.float32(config.rope_theta)),
        rope_scaling=replace(config.rope_scaling, original_max_position_embeddings=0),
        dtype=None,
        bos_token_id=None,
        eos_token_ids=(),
        quantization=None,
        channel_scales=None,
    )


def read_float32(ref: TensorRef, start: int, stop: int) -> np.ndarray:
    """Return rows of a tensor in float32."""
    return np.array(as_mlx(ref.read(start, stop), ref.dtype).astype(mx.float32))


def _model_fields(config: ModelConfig) -> dict[str, object]:
    fields: dict[str, object] = {
        "general.architecture": "llama",
        "general.type": "model",
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.rope.freq_base": float(config.rope_theta),
        "llama.rope.dimension_count": config.head_dim,
        "llama.vocab_size": config.vocab_size,
    }
    if config.rope_scaling.rope_type == "linear":
        fields |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": float(config.rope_scaling.factor)}
    return fields


def rope_factors(config: ModelConfig) -> np.ndarray | None:
    """Return by what llama3 scaling divides each pair's frequency, None for other scalings."""
    if config.rope_scaling.rope_type != "llama3":
        return None
    plain = np.array(rope_periods(config.head_dim, config.rope_theta, RopeScaling()))
    scaled = np.array(rope_periods(config.head_dim, config.rope_theta, config.rope_scaling))
    return (scaled / plain).astype(np.float32)


def to_gguf_name(name: str) -> str:
    """Return the GGUF name of a tensor from its Hugging Face name."""
    path, _, kind = name.rpartition(".")
    if path.startswith("model.layers."):
        _, _, layer, module = path.split(".", 3)
        return f"blk.{layer}.{_LAYER_MODULES[module]}.{kind}"
    return f"{_TOP_MODULES[path]}.{kind}"


_LAYER_MODULES = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
_TOP_MODULES = {theirs: ours for ours, theirs in TOP_NAMES.items()}


def interleaved(ref: TensorRef, config: ModelConfig) -> TensorRef:
    """Return a query or key tensor with the rows of its heads interleaved, any other as it is."""
    module = ref.name.split(".")[-2]
    if module not in ("q_proj", "k_proj"):
        return ref
    return replace(ref, read=partial(read_interleaved, ref.read, config.head_dim))


def read_interleaved(read: Callable[[int, int], np.ndarray], head_dim: int, start: int, stop: int) -> np.ndarray:
    """Return rows interleaved, x0 y0 x1 y1 …, out of a tensor whose heads are in halves: x0 x1 … y0 y1 …."""
    first = start // head_dim * head_dim
    heads = read(first, -(-stop // head_dim) * head_dim)
    pairs = heads.reshape(-1, 2, head_dim // 2, *heads.shape[1:]).swapaxes(1, 2).reshape(heads.shape)
    return np.ascontiguousarray(pairs[start - first : stop - first])
