"""Channel equalization: the factors of a model's channels, what they do to each tensor, and the file that keeps them.

Where a column of a matrix is multiplied by s, what feeds it is divided by s, and the model's function stays (see
convert/quantization/equalization.py). What was made for the channels of one side has to be rescaled to be used on the
other: adapters above all. So the factors stand in `channel_scales.json` beside the weights, and config.json has the
file's SHA-256 as `channel_scales`, so that a folder that has lost the file is noticed.

The file is JSON, each vector in base64 of little-endian float32, and no safetensors file, since Swift MLX loads every
`*.safetensors` of a folder as weights of the model; programs that download a part of a repository take `*.json` along.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from ..json_types import JsonObject
from .config import ModelConfig, load_json_object

SCALES_NAME = "channel_scales.json"


@dataclass(frozen=True, eq=False)
class LayerScales:
    """Factors of the columns: of q/k/v (D,), of o per key/value head (K * head_dim,), of gate/up (D,), of down (F,)."""

    attention: np.ndarray
    values: np.ndarray
    mlp: np.ndarray
    hidden: np.ndarray


@dataclass(frozen=True)
class Factors:
    """What a tensor's rows and columns are multiplied with; None: with one."""

    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    @property
    def are_one(self) -> bool:
        """Whether nothing changes."""
        return self.rows is None and self.columns is None

    def applied(self, values: np.ndarray, start: int = 0) -> np.ndarray:
        """Return rows of a tensor, beginning at row `start`, with their factors; float32 ones are overwritten."""
        scaled = values.astype(np.float32, copy=False)
        if self.columns is not None:
            scaled *= self.columns
        if self.rows is not None:
            rows = self.rows[start : start + len(scaled)]
            scaled *= rows if scaled.ndim == 1 else rows[:, None]
        return scaled


@dataclass(frozen=True, eq=False)
class ChannelScales:
    """The scales of all layers and, where the head isn't tied to the embedding, of its columns (D,)."""

    layers: tuple[LayerScales, ...]
    head: np.ndarray | None = None

    def factors(self, name: str, config: ModelConfig) -> Factors:
        """Return what a tensor of the model, called so, is multiplied with to be in these channels."""
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            return factors_of(rest, self.layers[int(layer)], config)
        return Factors() if self.head is None else head_factors(name, self.head)

    @cached_property
    def content(self) -> bytes:
        """What the file holds."""
        layers = [{name: _encoded(vector) for name, vector in vars(layer).items()} for layer in self.layers]
        values = {"layers": layers, **({} if self.head is None else {"head": _encoded(self.head)})}
        return (json.dumps(values, indent=1) + "\n").encode()

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file; equal scales have equal ones."""
        return hashlib.sha256(self.content).hexdigest()


def composed(first: ChannelScales | None, second: ChannelScales | None) -> ChannelScales | None:
    """Return the scales of channels that were scaled twice; None: not at all."""
    if first is None or second is None:
        return first or second
    layers = [
        LayerScales(**{name: vector * vars(again)[name] for name, vector in vars(layer).items()})
        for layer, again in zip(first.layers, second.layers, strict=True)
    ]
    head = None if first.head is None or second.head is None else first.head * second.head
    return ChannelScales(tuple(layers), head)


def inverse(scales: ChannelScales) -> ChannelScales:
    """Return the scales that undo these."""
    layers = [LayerScales(**{name: 1 / vector for name, vector in vars(layer).items()}) for layer in scales.layers]
    return ChannelScales(tuple(layers), None if scales.head is None else 1 / scales.head)


def change(source: ChannelScales | None, target: ChannelScales | None) -> ChannelScales | None:
    """Return the scales that lead from some channels to others; None where they are the same."""
    if (source.digest if source else None) == (target.digest if target else None):
        return None
    return composed(target, inverse(source) if source else None)


def factors_of(name: str, scales: LayerScales, config: ModelConfig) -> Factors:
    """Return the factors of one of a layer's tensors; `name` is what follows `model.layers.N.`."""
    table = {
        "input_layernorm.weight": Factors(rows=1 / scales.attention),
        "self_attn.q_proj.weight": Factors(columns=scales.attention),
        "self_attn.k_proj.weight": Factors(columns=scales.attention),
        "self_attn.v_proj.weight": Factors(rows=1 / scales.values, columns=scales.attention),
        "self_attn.v_proj.bias": Factors(rows=1 / scales.values),
        "self_attn.o_proj.weight": Factors(columns=head_columns(scales, config)),
        "post_attention_layernorm.weight": Factors(rows=1 / scales.mlp),
        "mlp.gate_proj.weight": Factors(columns=scales.mlp),
        "mlp.up_proj.weight": Factors(rows=1 / scales.hidden, columns=scales.mlp),
        "mlp.up_proj.bias": Factors(rows=1 / scales.hidden),
        "mlp.down_proj.weight": Factors(columns=scales.hidden),
    }
    return table.get(name, Factors())


def head_factors(name: str, scales: np.ndarray) -> Factors:
    """Return the factors of a tensor outside of the layers by the scales of an untied head."""
    table = {"model.norm.weight": Factors(rows=1 / scales), "lm_head.weight": Factors(columns=scales)}
    return table.get(name, Factors())


def head_columns(scales: LayerScales, config: ModelConfig) -> np.ndarray:
    """Return the factors (H * head_dim,) of o_proj's columns: query heads that share values share their scales."""
    heads = scales.values.reshape(config.num_key_value_heads, -1)
    return np.repeat(heads, config.num_attention_heads // config.num_key_value_heads, axis=0).reshape(-1)


def load_scales(folder: Path, config: ModelConfig) -> ChannelScales | None:
    """Return the scales of a model folder, None where its channels are the source's own.

    Raises CheckpointError where config.json speaks of a file that isn't there, or of another.
    """
    if config.channel_scales is None:
        return None
    scales = read_scales(folder, config)
    if scales.digest != config.channel_scales:
        raise CheckpointError(f"{folder / SCALES_NAME} is damaged or of another model than config.json: convert again")
    return scales


def lost_scales(folder: Path, config: ModelConfig) -> str | None:
    """Return the digest that config.json names of a file that isn't there, None where nothing is missing.

    Other programs keep config.json's entries when they convert a folder, and leave files behind that they don't know.
    """
    return None if (folder / SCALES_NAME).exists() else config.channel_scales


def read_scales(folder: Path, config: ModelConfig) -> ChannelScales:
    """Read the file of a model's or an adapter's folder; raises CheckpointError unless it fits the config."""
    path = folder / SCALES_NAME
    if not path.exists():
        raise CheckpointError(
            f"{folder} lacks {SCALES_NAME}, the factors of its channel equalization: copy it from where the folder "
            "comes from"
        )
    values = load_json_object(path)
    layers, D = values.get("layers"), config.hidden_size
    sizes = {
        "attention": D,
        "values": config.num_key_value_heads * config.head_dim,
        "mlp": D,
        "hidden": config.intermediate_size,
    }
    count = config.num_hidden_layers
    if not isinstance(layers, list) or len(layers) != count or not all(isinstance(entry, dict) for entry in layers):
        raise CheckpointError(f"{path} must have the scales of {count} layers")
    found = [
        LayerScales(**{name: _decoded(path, entry, name, size) for name, size in sizes.items()}) for entry in layers
    ]
    head = None if config.tie_word_embeddings else _decoded(path, values, "head", D)
    return ChannelScales(tuple(found), head)


def _encoded(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _decoded(path: Path, values: JsonObject, name: str, size: int) -> np.ndarray:
    try:
        vector = np.frombuffer(base64.b64decode(values[name], validate=True), "<f4").astype(np.float32)
    except (KeyError, TypeError, ValueError):
        vector = np.empty(0, np.float32)
    if vector.shape != (size,) or not (np.isfinite(vector) & (vector > 0)).all():
        raise CheckpointError(f"{path}: {name} must be {size} positive numbers in base64 of float32")
    return vector
