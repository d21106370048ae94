"""PEFT's adapter folders, read and written without torch.

`adapter_model.safetensors` has `base_model.model.<path>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r),
DoRA's `.lora_magnitude_vector`, and for embeddings `.lora_embedding_A` (r, V) and `.lora_embedding_B` (D, r).
The strength is alpha / r, or alpha / sqrt(r) with `use_rslora`, and both may differ by pattern.
Source: PEFT `tuners/lora/config.py`, `utils/save_and_load.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import AdapterError
from ..files import save_json, save_whole
from ..finetune.layers.targets import layer_number, matches
from ..json_types import JsonMapping, JsonObject, JsonValue
from ..model.config import ModelConfig
from ..model.parameters import expected_tensors
from .adapter import EMBEDDING, Adapter, LowRank
from .mlx_lm_format import CONFIG, PEFT_WEIGHTS

# Keys of adapter_config.json that leave the tensors' meaning alone, or are read here.
_KNOWN = frozenset(
    (
        "alpha_pattern",
        "arrow_config",
        "auto_mapping",
        "base_model_name_or_path",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    )
)
# Ways to begin that leave the base's weights as they are; the others train on a base that was changed.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_PREFIX = "base_model.model."
_LAYER_NAME = r"(?P<path>.+?)"
_FORMS = {
    "a": re.compile(rf"{_LAYER_NAME}\.lora_A(\.\w+)?\.weight"),
    "b": re.compile(rf"{_LAYER_NAME}\.lora_B(\.\w+)?\.weight"),
    "embedding_a": re.compile(rf"{_LAYER_NAME}\.lora_embedding_A(\.\w+)?"),
    "embedding_b": re.compile(rf"{_LAYER_NAME}\.lora_embedding_B(\.\w+)?"),
    "magnitude": re.compile(rf"{_LAYER_NAME}\.lora_magnitude_vector(\.weight|\.\w+)?"),
    "full": re.compile(rf"{_LAYER_NAME}(\.base_layer|\.modules_to_save(\.\w+)?)?\.(?P<name>weight|bias)"),
}


def from_peft(tensors: Mapping[str, mx.array], values: JsonMapping, config: ModelConfig) -> Adapter:
    """Return the adapter that PEFT's tensors and config describe; raises AdapterError where that can't be."""
    _refuse_unsupported(values)
    _refuse_tied(tensors, config)
    found: dict[str, dict[str, mx.array]] = {}
    full: dict[str, mx.array] = {}
    unknown = []
    for name, tensor in tensors.items():
        kind, path, key = _classified(name)
        if kind == "full" and f"{path}.{key}" in expected_tensors(config):
            full[f"{path}.{key}"] = tensor
        elif kind is None or kind == "full":
            unknown.append(name)
        else:
            found.setdefault(path, {})[kind] = tensor
    if unknown:
        raise AdapterError(f"the adapter has tensors that this model has no place for, such as {unknown[0]}")
    parts = {path: _part(path, halves, values) for path, halves in sorted(found.items())}
    return Adapter(parts, full, float(values.get("lora_dropout") or 0), values.get("base_model_name_or_path"))


def _refuse_unsupported(values: JsonMapping) -> None:
    if values.get("peft_type") != "LORA":
        raise AdapterError(f"peft_type is {values.get('peft_type')!r}; accepted is 'LORA'")
    if values.get("fan_in_fan_out"):
        raise AdapterError("fan_in_fan_out adapters are for other architectures")
    if values.get("bias", "none") != "none":
        raise AdapterError(f"the adapter trains biases (bias is {values['bias']!r}), which can't be carried over")
    start = values.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise AdapterError(
            f"the adapter began as {start!r}, on a base whose weights that changed: save it with PEFT's "
            "path_initial_model_for_weight_conversion, which makes it one for the plain base"
        )
    for key, value in values.items():
        if key not in _KNOWN and key not in ("fan_in_fan_out", "bias") and value not in (None, False, "", [], {}):
            raise AdapterError(f"the adapter uses {key}, which can't be carried over")


def _refuse_tied(tensors: Mapping[str, mx.array], config: ModelConfig) -> None:
    """Raise AdapterError where PEFT has separate values for an embedding and the head that is tied to it here."""
    if not config.tie_word_embeddings:
        return
    for name in tensors:
        kind, path, _ = _classified(name)
        if kind is not None and (path == "lm_head" or path == EMBEDDING):
            what = "head" if path == "lm_head" else "embedding"
            raise AdapterError(
                f"the adapter changes the {what} alone ({path}), and this model's head is tied to its embedding: merge "
                "it into the model with PEFT (merge_and_unload, tie_word_embeddings false) and convert the result"
            )


def _classified(name: str) -> tuple[str | None, str, str]:
    """Return kind, layer path and parameter name of a tensor in PEFT's naming."""
    bare = name.removeprefix(_PREFIX)
    for kind, form in _FORMS.items():
        match = form.fullmatch(bare)
        if match:
            return kind, match["path"], match["name"] if kind == "full" else ""
    return None, "", ""


def _part(path: str, halves: Mapping[str, mx.array], values: JsonMapping) -> LowRank:
    embedded = "embedding_a" in halves or "embedding_b" in halves
    names = ("embedding_a", "embedding_b") if embedded else ("a", "b")
    if not all(name in halves for name in names):
        raise AdapterError(f"the adapter has half of the matrices of {path}")
    a, b = (halves[name].T for name in names)
    rank = a.shape[1]
    alpha = _by_pattern(path, values.get("alpha_pattern"), values.get("lora_alpha"))
    declared = _by_pattern(path, values.get("rank_pattern"), values.get("r"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise AdapterError(f"lora_alpha must be a number, not {alpha!r}")
    if declared != rank:
        raise AdapterError(f"{path} has rank {rank}, and adapter_config.json says {declared!r}")
    magnitude = halves.get("magnitude")
    if bool(values.get("use_dora")) != (magnitude is not None):
        raise AdapterError(f"{path}: use_dora is {bool(values.get('use_dora'))}, and its tensors say otherwise")
    return LowRank(a, b, alpha / (rank**0.5 if values.get("use_rslora") else rank), magnitude)


def _by_pattern(path: str, patterns: Any, default: JsonValue) -> JsonValue:
    """Return the value of the first pattern that matches the end of the path. Source: PEFT `get_pattern_key`."""
    for pattern, value in (patterns or {}).items():
        if matches(pattern, path):
            return value
    return default


def save_peft(folder: Path, adapter: Adapter, config: ModelConfig) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`; raises AdapterError for what PEFT can't do."""
    tensors, values = peft_layout(adapter, config)
    mx.eval(list(tensors.values()))
    save_whole(folder / PEFT_WEIGHTS, lambda path: mx.save_safetensors(str(path), tensors, metadata={"format": "pt"}))
    save_json(folder / CONFIG, values)


def peft_layout(adapter: Adapter, config: ModelConfig) -> tuple[dict[str, mx.array], JsonObject]:
    """Return PEFT's tensors and config of an adapter."""
    assert adapter.scales is None, "PEFT knows no channels but the trained ones"
    changes_embedding = EMBEDDING in adapter.parts or f"{EMBEDDING}.weight" in adapter.full_tensors
    if changes_embedding and config.tie_word_embeddings:
        raise AdapterError(
            "the adapter changes the embedding and the head tied to it, and PEFT changes the embedding alone: "
            "fuse it into the model instead"
        )
    if not adapter.parts:
        raise AdapterError(
            "the adapter has fully trained modules alone, which is not LoRA: fuse it into the model instead"
        )
    tensors: dict[str, mx.array] = {}
    for path, part in adapter.parts.items():
        a, b = ("lora_embedding_A", "lora_embedding_B") if path == EMBEDDING else ("lora_A.weight", "lora_B.weight")
        tensors[f"{_PREFIX}{path}.{a}"] = mx.contiguous(part.a.T)
        tensors[f"{_PREFIX}{path}.{b}"] = mx.contiguous(part.b.T)
        if part.magnitude is not None:
            tensors[f"{_PREFIX}{path}.lora_magnitude_vector"] = part.magnitude
    saved = sorted({name.rpartition(".")[0] for name in adapter.full_tensors})
    tensors |= {f"{_PREFIX}{name}": array for name, array in adapter.full_tensors.items()}
    return tensors, _config(adapter, saved)


def _config(adapter: Adapter, saved: list[str]) -> JsonObject:
    ranks = {path: part.rank for path, part in adapter.parts.items()}
    alphas = {path: part.scale * part.rank for path, part in adapter.parts.items()}
    rank, alpha = max(ranks.values()), max(alphas.values())
    # Where q_proj of all blocks is adapted its name is enough; otherwise the paths say which.
    names = sorted({path.rpartition(".")[2] for path in ranks})
    blocks = sorted({number for path in ranks if (number := layer_number(path)) is not None})
    grid = _is_grid(list(ranks), names, blocks)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "r": rank,
        "lora_alpha": _rounded_whole(alpha),
        "lora_dropout": adapter.dropout,
        "target_modules": names if grid else sorted(ranks),
        "layers_to_transform": blocks if grid else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": adapter.is_dora,
        "modules_to_save": saved or None,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {path: _rounded_whole(value) for path, value in alphas.items() if value != alpha},
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _is_grid(paths: list[str], names: list[str], blocks: list[int]) -> bool:
    """Return whether every name is adapted in every block, so that names and blocks say it all."""
    inside = [path for path in paths if layer_number(path) is not None]
    return len(inside) == len(paths) == len(names) * len(blocks)


def _rounded_whole(value: float) -> float | int:
    return round(value) if abs(value - round(value)) < 1e-9 else value
