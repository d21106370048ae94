"""What a checkpoint's tensors decide where config.json says something else: head, quantization, dtype.

Each decision returns the config that holds and notes what it overruled.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..dtypes import FLOAT_DTYPES, STORED_DTYPES
from ..errors import CheckpointError, ConfigError
from ..model.config import ModelConfig
from ..model.parameters import expected_tensors
from ..model.quantization import FIXED_MODES, Quantization, Scheme
from .reader import CheckpointReader, StoredTensor
from .tensor_names import EMBEDDING, HEAD

Tensors = Mapping[str, StoredTensor]
Note = Callable[[str], None]
_MODES = {shape: mode for mode, shape in FIXED_MODES.items()}


def with_head(config: ModelConfig, tensors: Tensors, note: Note) -> ModelConfig:
    """Untie the head where the checkpoint has one that isn't the embedding; as transformers does since 5."""
    if not config.tie_word_embeddings or f"{HEAD}.weight" not in tensors or f"{EMBEDDING}.weight" not in tensors:
        return config
    reader = CheckpointReader(tensors, {})
    heads, embeddings = reader.parts(HEAD), reader.parts(EMBEDDING)
    if len(heads) == len(embeddings) and all(map(reader.equal, heads, embeddings)):
        return config
    note("config.json ties the head to the embedding, but lm_head.weight differs from it: the head is read as it is")
    return replace(config, tie_word_embeddings=False)


def module_schemes(config: ModelConfig, tensors: Tensors, note: Note) -> dict[str, Scheme]:
    """Return the scheme of each module that has scales; those are the quantized ones, as in mlx-lm.

    Where config.json says nothing or what the tensors' shapes can't be, the shapes tell. Raises CheckpointError where
    they don't.
    """
    shapes = expected_tensors(config)
    found: dict[str, Scheme] = {}
    overruled: list[str] = []
    for name in tensors:
        path = name.removesuffix(".scales")
        if path == name or f"{path}.weight" not in tensors or f"{path}.weight" not in shapes:
            continue
        stated = config.quantization.scheme_for(path) if config.quantization else None
        scheme = _told_by_shapes(path, shapes[f"{path}.weight"], tensors) or stated
        if scheme is None:
            raise CheckpointError(
                f"{path} is quantized, but config.json doesn't say how and its shapes don't tell: take config.json "
                "from where the weights come from"
            )
        found[path] = scheme
        if stated != scheme:
            overruled.append(path)
    if overruled:
        kinds = ", ".join(sorted({f"{s.mode} {s.bits} bits, group size {s.group_size}" for s in found.values()}))
        said = "another quantization of" if config.quantization else "no quantization of"
        note(f"config.json has {said} {len(overruled)} modules ({overruled[0]}, …): the tensors' shapes say {kinds}")
    return found


def with_quantization(config: ModelConfig, schemes: Mapping[str, Scheme], note: Note) -> ModelConfig:
    """Make the config's quantization that of the tensors."""
    if not schemes:
        if config.quantization:
            note("config.json has a quantization, but the tensors are whole: they are read as they are")
        return replace(config, quantization=None)
    if config.quantization and all(config.quantization.scheme_for(path) == scheme for path, scheme in schemes.items()):
        return config
    default = Counter(schemes.values()).most_common(1)[0][0]
    paths = [name.removesuffix(".weight") for name, shape in expected_tensors(config).items() if len(shape) == 2]
    exceptions = {path: schemes.get(path) for path in paths if schemes.get(path) != default}
    return replace(config, quantization=Quantization(default, exceptions))


def with_dtype(config: ModelConfig, tensors: Tensors, note: Note) -> ModelConfig:
    """Make the config's dtype that of the largest tensor of floating-point numbers (norms may be kept wider)."""
    floats = [tensor for tensor in tensors.values() if tensor.dtype in FLOAT_DTYPES]
    if not floats:
        return config
    dtype = STORED_DTYPES[max(floats, key=lambda tensor: tensor.nbytes).dtype].name
    if config.dtype not in (None, dtype):
        note(f"config.json says {config.dtype}, the weights are {dtype}: they are read as {dtype}")
    return replace(config, dtype=dtype)


def check_dtypes(tensors: Tensors, schemes: Mapping[str, Scheme], where: Path) -> None:
    """Raise CheckpointError naming the tensors whose dtype their module can't have."""
    odd = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in _dtypes(name, schemes)]
    if odd:
        raise CheckpointError(f"{where}: tensors of a dtype that is not supported: {', '.join(odd[:20])}")


def _dtypes(name: str, schemes: Mapping[str, Scheme]) -> tuple[str, ...]:
    path, _, part = name.rpartition(".")
    if path not in schemes:
        return FLOAT_DTYPES
    if part == "weight":
        return ("U32",)
    return FLOAT_DTYPES if schemes[path].mode == "affine" else ("U8",)


def _told_by_shapes(path: str, shape: tuple[int, ...], tensors: Tensors) -> Scheme | None:
    """Return the only scheme that a matrix of this shape can have been packed by, None if there is none."""
    words, scales = tensors[f"{path}.weight"].shape, tensors[f"{path}.scales"].shape
    if len(words) != 2 or len(scales) != 2 or not scales[1] or (words[0], scales[0]) != (shape[0], shape[0]):
        return None
    columns = shape[1]
    bits, group_size = words[1] * 32 // columns, columns // scales[1]
    if words[1] * 32 != bits * columns or group_size * scales[1] != columns:
        return None
    mode = "affine" if f"{path}.biases" in tensors else _MODES.get((bits, group_size), "")
    try:
        return Scheme(bits, group_size, mode)
    except ConfigError:
        return None
