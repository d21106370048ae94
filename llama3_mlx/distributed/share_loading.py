"""Loads one process's share of a model: of each tensor its rows and columns, read block by block."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..checkpoint.folder import ModelFolder
from ..checkpoint.loading import arrange, finish, make_model
from ..checkpoint.reader import CheckpointReader
from ..checkpoint.safetensors_files import as_mlx
from ..dtypes import DTYPES
from ..model.quantization import Scheme
from ..model.transformer import LlamaForCausalLM
from .shares import Cut, Share, length

_FLOATS = tuple(DTYPES.values())
# What is read at once of a tensor of which not all columns are held.
_BLOCK_BYTES = 32 * 2**20


def load_share(folder: Path | ModelFolder, share: Share, dtype: str) -> LlamaForCausalLM:
    """Load a share, evaluated, to compute in `dtype`; its layers count from 0.

    Layer by layer, so that memory never holds more than the share and one layer. Only rank 0's has embedding, last norm
    and head. Raises ConfigError or CheckpointError.
    """
    opened = ModelFolder.of(folder)
    schemes = {
        local: scheme for path, scheme in opened.schemes.items() if (local := share.local_name(path)) is not None
    }
    model = make_model(share.config(opened.config), schemes)
    if not share.has_ends:
        for name in ("embed_tokens", "norm"):
            del model.model[name]
    if _has_tied_rows(share) if share.has_ends else share.vocabulary is None:
        model.pop("lm_head", None)
    reader, chosen = _ShareReader(opened, share), DTYPES[dtype]
    parts: dict[str, list[str]] = defaultdict(list)
    for name in opened.tensors:
        if share.local_name(name) is not None:
            parts[".".join(name.split(".")[:3])].append(name)
    found = set()
    for names in parts.values():
        weights = []
        for name in names:
            array = reader.read(name)
            weights.append((str(share.local_name(name)), array.astype(chosen) if array.dtype in _FLOATS else array))
        mx.eval([array for _, array in weights])
        model.load_weights(weights, strict=False)
        found |= {name for name, _ in weights}
    # Names alone are kept: an array that is held here couldn't be freed when it is joined with others.
    del weights, array
    missing = set(dict(tree_flatten(model.parameters(), destination={}))) - found
    assert not missing, f"the share lacks {sorted(missing)[:5]}"
    if share.has_ends and _has_tied_rows(share):
        model.lm_head = _first_rows(model.model.embed_tokens, share)
    arrange(model)
    finish(model, opened.path)
    return model


def _has_tied_rows(share: Share) -> bool:
    """Return whether a split head's rows are those of an embedding."""
    return share.vocabulary is not None and share.head_path != "lm_head"


def _first_rows(embedding: Any, share: Share) -> Any:
    """Return the first rows of an embedding as a head; they share its memory."""
    assert share.vocabulary is not None, "the head is split"
    rows, width = length(share.vocabulary), embedding.dims if "scales" in embedding else embedding.weight.shape[1]
    made: Any = nn.Linear(width, rows, bias=False)
    if "scales" in embedding:
        scheme = {"group_size": embedding.group_size, "bits": embedding.bits, "mode": embedding.mode}
        made = nn.QuantizedLinear(width, rows, bias=False, **scheme)
    for name, array in embedding.parameters().items():
        made[name] = array[:rows]
    return made


class _ShareReader:
    """Reads the share's part of a checkpoint's tensors, the rest never."""

    def __init__(self, opened: ModelFolder, share: Share) -> None:
        self._reader: CheckpointReader = opened.reader()
        self._opened, self._share = opened, share

    def read(self, name: str) -> mx.array:
        """Return the held part of a tensor of the whole model, as it is stored."""
        tensor = self._opened.tensors[name]
        outputs, inputs = self._share.cut(name, self._opened.config)
        rows = outputs or (0, tensor.shape[0])
        if inputs is None or len(tensor.shape) == 1:
            array = as_mlx(self._reader.raw(name, *rows), tensor.dtype)
            # The bias of a sum over all processes is added once.
            is_added_elsewhere = self._share.rank > 0 and inputs is not None
            return mx.zeros_like(array) if is_added_elsewhere else array
        return as_mlx(self._columns(name, self._packed(name, inputs)), tensor.dtype)

    def _packed(self, name: str, columns: Cut) -> Cut:
        """Return where columns of values lie in a tensor: in packed words, or in groups."""
        path, _, part = name.rpartition(".")
        scheme: Scheme | None = self._opened.schemes.get(path)
        if scheme is None:
            return columns
        times, by = (scheme.bits, 32) if part == "weight" else (1, scheme.group_size)
        assert not any(column * times % by for column in columns), f"{name}: {columns} cuts through a word or a group"
        return columns[0] * times // by, columns[1] * times // by

    def _columns(self, name: str, columns: Cut) -> np.ndarray:
        """Return some columns of all rows, read by blocks of whole rows."""
        tensor = self._opened.tensors[name]
        rows = tensor.shape[0]
        step = max(1, _BLOCK_BYTES * rows // max(1, tensor.nbytes))
        blocks = [self._reader.raw(name, at, at + step)[:, slice(*columns)].copy() for at in range(0, rows, step)]
        return np.concatenate(blocks)
