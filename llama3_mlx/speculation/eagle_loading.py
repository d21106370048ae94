"""Loads a draft head from a folder of either public form or of ours, and checks that it fits its target.

The forms differ in config.json (see eagle_config.py), in the name of the layer, and in the file: safetensors, or
PyTorch's own, which is read without running anything in it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..checkpoint.loading import lazy_weights
from ..checkpoint.reader import StoredTensor
from ..checkpoint.safetensors_files import as_mlx
from ..checkpoint.torch_file import TorchFile
from ..checkpoint.weight_files import find_headers, safetensors_names
from ..device import compute_dtype
from ..dtypes import DTYPES
from ..errors import CheckpointError, ConfigError, RequestError
from ..model.config import ModelConfig, load_json_object
from ..model.parameters import check_tensors, expected_tensors, quantized_shapes
from ..model.quantization import Scheme
from .eagle_config import HeadConfig
from .eagle_head import EagleHead

_FLOATS = tuple(DTYPES.values())
# What heads carry beside their own: parts of the target that training used, and what follows from the config.
_UNUSED = ("verifier_", "t2d", "d2t")


def load_head(folder: Path, target: ModelConfig, *, dtype: str | None = None) -> EagleHead:
    """Load the draft head in `folder`, evaluated, to compute in `dtype` (default: what suits the device).

    Raises ConfigError or CheckpointError for damaged files, RequestError for a head that doesn't fit the target.
    """
    config = HeadConfig.from_dict(load_json_object(folder / "config.json"))
    check_fit(config, target, folder.name)
    config, tensors = read_head(folder, config)
    check_fit(config, target, folder.name)
    head = build_head(config, tensors, folder)
    stored = tensors["norm.weight"].dtype
    chosen = compute_dtype(dtype, stored if stored in _FLOATS else mx.float16, True)
    head.apply(lambda array: array.astype(chosen) if array.dtype in _FLOATS else array)
    mx.eval(head.parameters(), [] if head.token_ids is None else head.token_ids)
    head.eval()
    return head


def check_fit(head: HeadConfig, target: ModelConfig, name: str) -> None:
    """Raise RequestError with what doesn't fit between a head and the model that it is to draft for."""
    problems = []
    if head.target_hidden_size != target.hidden_size:
        problems.append(
            f"it reads hidden states of {head.target_hidden_size}, and the model's have {target.hidden_size}"
        )
    if head.layer.vocab_size != target.vocab_size:
        problems.append(f"it is for a vocabulary of {head.layer.vocab_size}, and the model has {target.vocab_size}")
    try:
        head.depths_in(target.num_hidden_layers)
    except ConfigError as error:
        problems.append(str(error))
    if problems:
        trained_for = f" (it was trained for {head.target})" if head.target else ""
        raise RequestError(f"the draft head {name} is for another model{trained_for}: " + "; ".join(problems))


def read_head(folder: Path, config: HeadConfig) -> tuple[HeadConfig, dict[str, mx.array]]:
    """Return the tensors of a head by their names in ours, checked, and the config with what they decide.

    Raises CheckpointError with everything that is missing, unexpected, misshapen or contradictory.
    """
    found = {_our_name(name): array for name, array in _stored(folder).items()}
    own = "embed_tokens.weight" in found
    if not own and config.layer.hidden_size != config.target_hidden_size:
        raise CheckpointError(f"{folder}: the draft head has no embed_tokens, and the target's has another width")
    config = replace(config, own_embedding=own)
    needed = {name: array for name, array in found.items() if not name.startswith(_UNUSED)}
    shapes = quantized_shapes(head_tensors(config), _schemes(config, needed))
    check_tensors(shapes, {name: array.shape for name, array in needed.items()}, folder)
    check_map(folder, config, found)
    maps = {name: found[name] for name in ("d2t", "t2d") if name in found}
    return config, {name: needed[name] for name in shapes} | maps


def build_head(config: HeadConfig, tensors: Mapping[str, mx.array], folder: Path) -> EagleHead:
    """Return a head of the tensors that `read_head` gave."""
    head, schemes = EagleHead(config), _schemes(config, tensors)
    if schemes:
        nn.quantize(head, class_predicate=lambda path, _: schemes[path].to_dict() if path in schemes else False)
    head.load_weights([(name, array) for name, array in tensors.items() if name not in ("d2t", "t2d")], strict=True)
    ids = check_map(folder, config, tensors)
    if ids is not None:
        head.map_tokens(mx.array(ids.astype(np.int32)))
    return head


def check_map(folder: Path, config: HeadConfig, tensors: Mapping[str, mx.array]) -> np.ndarray | None:
    """Return the target's ids of the reduced vocabulary, None where it is the whole one.

    `d2t` holds for each token how far its id in the target lies beyond its own, `t2d` which of the target's are in it.
    """
    n, vocab_size = config.draft_vocab_size, config.layer.vocab_size
    if "d2t" not in tensors:
        if n == vocab_size:
            return None
        raise CheckpointError(
            f"{folder}: d2t, the map from the draft head's {n} tokens to the model's {vocab_size}, is missing"
        )
    offsets = np.array(tensors["d2t"]).astype(np.int64)
    ids = offsets + np.arange(len(offsets)) if offsets.shape == (n,) else np.zeros(0, np.int64)
    if len(ids) != n or ids.min() < 0 or ids.max() >= vocab_size or len(np.unique(ids)) != n:
        raise CheckpointError(f"{folder}: d2t doesn't give each of {n} tokens one of the model's {vocab_size}")
    if "t2d" in tensors:
        flags = np.array(tensors["t2d"]).astype(bool)
        if flags.shape != (vocab_size,) or not np.array_equal(np.flatnonzero(flags), np.sort(ids)):
            raise CheckpointError(f"{folder}: d2t and t2d don't name the same tokens: they are of different heads")
    return ids


def head_tensors(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a head, unquantized, in its order; the maps aside."""
    layer, D = config.layer, config.layer.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"fc.weight": (D, config.n_features * config.target_hidden_size)}
    if config.own_embedding:
        shapes["embed_tokens.weight"] = (layer.vocab_size, D)
    if config.norm_before_fc:
        shapes["input_norm.weight"] = (config.n_features * config.target_hidden_size,)
    for name, shape in expected_tensors(layer).items():
        if name.startswith("model.layers.0."):
            ours = name.removeprefix("model.")
            wide = ours.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
            shapes[ours] = (shape[0], 2 * D) if wide else shape
    shapes["layers.0.hidden_norm.weight"] = (D,)
    shapes["norm.weight"] = (D,)
    shapes["lm_head.weight"] = (config.draft_vocab_size, D)
    return shapes


def _schemes(config: HeadConfig, tensors: Mapping[str, mx.array]) -> dict[str, Scheme]:
    """Return the scheme of each quantized module by its path."""
    quantization = config.layer.quantization
    if quantization is None:
        return {}
    paths = [name.removesuffix(".scales") for name in tensors if name.endswith(".scales")]
    return {path: scheme for path in paths if (scheme := quantization.scheme_for(path)) is not None}


def _stored(folder: Path) -> dict[str, mx.array]:
    """Return the tensors of the folder's file or files under their names there."""
    if safetensors_names(folder):
        headers = find_headers(folder, None, lambda _: None)
        stored = {
            name: StoredTensor(path, name, info) for path, header in headers.items() for name, info in header.items()
        }
        return lazy_weights(stored)
    files = sorted(folder.glob("*.bin"))
    if len(files) != 1:
        raise CheckpointError(f"{folder} has no weights of a draft head: neither safetensors nor one PyTorch .bin file")
    file = TorchFile(files[0], buffers=True)
    try:
        return {
            name: as_mlx(file.read(name, 0, info.shape[0] if info.shape else 1), info.dtype)
            for name, info in file.infos.items()
        }
    finally:
        file.close()


def _our_name(name: str) -> str:
    name = name.removeprefix("model.")
    return f"layers.0.{name.removeprefix('midlayer.')}" if name.startswith("midlayer.") else name
