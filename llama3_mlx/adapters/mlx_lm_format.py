"""Reads and writes adapter folders in mlx-lm's layout, with the strength where Ollama and PEFT look for it.

`adapters.safetensors` has `<path>.lora_a` (in, r), `.lora_b` (r, out) and DoRA's `.m`; `adapter_config.json` has
`fine_tune_type`, `num_layers` (counted from the last block) and `lora_parameters`. mlx-lm has one rank and one scale
for all layers: smaller ranks are filled up with zeros and other scales folded into b. Ollama takes the strength from a
whole `lora_alpha` alone, so the scale is chosen such that alpha = scale * rank is a whole number.

The values are for the channels of the base that they were trained on, so that mlx-lm gives the same logits with the
same base. Where a conversion has scaled those, a copy of the base's `channel_scales.json` lies beside the adapter, and
`channel_scales` is its digest. PEFT's folders are for the channels that the model was trained with.
Source: mlx-lm `tuner/utils.py`; Ollama `convert/convert_llama_adapter.go`.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.folder import load_config
from ..checkpoint.safetensors_files import read_header
from ..errors import AdapterError, CheckpointError, ConfigError
from ..files import save_json, save_text, save_whole
from ..finetune.layers.targets import layer_number
from ..json_types import JsonMapping, JsonObject
from ..library.hub import is_id, repository_of
from ..model.channel_scales import SCALES_NAME, ChannelScales, load_scales, read_scales
from ..model.config import ModelConfig, load_json_object
from .adapter import Adapter, LowRank
from .rescaling import AdapterBase, rescaled_to

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"


def save_adapter(folder: Path, adapter: Adapter, config: ModelConfig) -> None:
    """Write `adapters.safetensors`, `adapter_config.json` and scales of channels, each atomically."""
    tensors, values = mlx_lm_layout(adapter, config)
    mx.eval(list(tensors.values()))
    _save_scales(folder / SCALES_NAME, adapter.scales)
    save_whole(folder / WEIGHTS, lambda path: mx.save_safetensors(str(path), tensors, metadata={"format": "mlx"}))
    save_json(folder / CONFIG, values)


def _save_scales(path: Path, scales: ChannelScales | None) -> None:
    if scales is None:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != scales.content:
        save_text(path, scales.content.decode())


def mlx_lm_layout(adapter: Adapter, config: ModelConfig) -> tuple[dict[str, mx.array], JsonObject]:
    """Return the tensors and the config of an adapter folder."""
    rank = max((part.rank for part in adapter.parts.values()), default=0)
    scale = _shared_scale(adapter, rank)
    tensors: dict[str, mx.array] = {}
    for path, part in adapter.parts.items():
        even = part.rescaled(scale).padded(rank)
        tensors |= {f"{path}.lora_a": even.a, f"{path}.lora_b": even.b}
        if even.magnitude is not None:
            tensors[f"{path}.m"] = even.magnitude
    values: JsonObject = {
        "base_model_name_or_path": adapter.base,
        "fine_tune_type": ("dora" if adapter.is_dora else "lora") if adapter.parts else "full",
        "num_layers": _layers_from_end(adapter, config),
    }
    if adapter.parts:
        values["lora_parameters"] = {
            "rank": rank,
            "scale": scale,
            "dropout": adapter.dropout,
            "keys": sorted({_key(path) for path in adapter.parts}),
        }
        values |= {"r": rank, "lora_alpha": round(scale * rank)}
    if adapter.full_tensors and adapter.parts:
        values["modules_to_save"] = sorted({name.rpartition(".")[0] for name in adapter.full_tensors})
    if adapter.scales is not None:
        values["channel_scales"] = adapter.scales.digest
    return {**tensors, **adapter.full_tensors}, values


def _shared_scale(adapter: Adapter, rank: int) -> float:
    """Return the scale nearest to the layers' largest for which alpha is a whole number."""
    largest = max((part.scale for part in adapter.parts.values()), default=0.0)
    return max(1, round(largest * rank)) / rank if rank else 0.0


def _layers_from_end(adapter: Adapter, config: ModelConfig) -> int:
    """Return how many of the last blocks the adapter touches, all blocks between included."""
    numbers = [layer_number(name) for name in (*adapter.parts, *adapter.full_tensors)]
    blocks = [number for number in numbers if number is not None]
    return config.num_hidden_layers - min(blocks) if blocks else 0


def _key(path: str) -> str:
    """Return the name that mlx-lm finds a layer by: within its block, or the whole path outside of blocks."""
    return path if layer_number(path) is None else path.split(".", 3)[3]


def read_adapter(folder: Path, base: AdapterBase, *, for_source: bool = False) -> Adapter:
    """Read an adapter folder, mlx-lm's or PEFT's, check it against the model it is to go into and fit it to it.

    It comes for the channels of `base`, with `for_source` for those that the model was trained with. Raises
    AdapterError.
    """
    if not folder.is_dir():
        raise AdapterError(f"there is no adapter folder {folder}")
    try:
        values = load_json_object(folder / CONFIG)
    except ConfigError as error:
        raise AdapterError(str(error).replace("a model", "an adapter")) from None
    is_peft = (folder / PEFT_WEIGHTS).exists() and not (folder / WEIGHTS).exists()
    if is_peft:
        from .peft_format import from_peft

        adapter = from_peft(read_tensors(folder / PEFT_WEIGHTS), values, base.config)
    elif (folder / WEIGHTS).exists():
        adapter = _from_mlx_lm(read_tensors(folder / WEIGHTS), values, folder)
    else:
        raise AdapterError(f"{folder} has neither {WEIGHTS} nor {PEFT_WEIGHTS}")
    adapter.check(base.config, folder)
    if not adapter.parts and not adapter.full_tensors:
        raise AdapterError(f"{folder} holds no tensors")
    if not is_peft:
        adapter = replace(adapter, scales=_stored_scales(folder, values, base))
    return rescaled_to(adapter, None if for_source else base.scales, base)


def _stored_scales(folder: Path, values: JsonMapping, base: AdapterBase) -> ChannelScales | None:
    """Return the scales of the channels that an adapter in mlx-lm's layout is for."""
    digest, named = values.get("channel_scales"), values.get("model")
    if base.scales is not None and digest == base.scales.digest:
        return base.scales
    if digest is not None or (folder / SCALES_NAME).exists():
        scales = read_scales(folder, base.config)
        if digest not in (None, scales.digest):
            raise AdapterError(f"{folder / SCALES_NAME} is damaged or of another adapter than {CONFIG}")
        return scales
    return _scales_of_model(folder, named, base) if isinstance(named, str) else None


def _scales_of_model(folder: Path, named: str, base: AdapterBase) -> ChannelScales | None:
    """Return the scales of the model that mlx-lm notes to have trained an adapter on: a path as it was typed, or an id.

    Raises AdapterError where that can't be found out.
    """
    origin = Path(named).expanduser()
    if base.folder is not None and named == repository_of(base.folder):
        return base.scales
    if (origin / "config.json").exists():
        return load_scales(origin, replace(base.config, channel_scales=load_config(origin).channel_scales))
    if base.scales is not None and not is_id(named):
        raise AdapterError(
            f"{folder} was trained on {named}, which isn't there, and this model's channels were equalized: if it is "
            f"the model that the adapter was trained on, copy its {SCALES_NAME} into {folder}"
        )
    return None


def read_tensors(path: Path) -> dict[str, mx.array]:
    """Read a safetensors file, its header checked first; raises AdapterError."""
    try:
        read_header(path)
        loaded: Any = mx.load(str(path), format="safetensors")
    except (CheckpointError, RuntimeError) as error:
        raise AdapterError(str(error)) from None
    return dict(loaded)


def _from_mlx_lm(tensors: Mapping[str, mx.array], values: JsonMapping, folder: Path) -> Adapter:
    kind = values.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora", "full"):
        raise AdapterError(f"{folder}: fine_tune_type is {kind!r}; accepted are lora, dora and full")
    parameters = values.get("lora_parameters") or {}
    scale = parameters.get("scale") if isinstance(parameters, Mapping) else None
    low_rank = {name.rpartition(".")[0] for name in tensors if name.endswith((".lora_a", ".lora_b"))}
    if low_rank and (isinstance(scale, bool) or not isinstance(scale, int | float)):
        raise AdapterError(f"{folder}: lora_parameters.scale must be a number, not {json.dumps(scale)}")
    absent = [f"{path}.{half}" for path in sorted(low_rank) for half in ("lora_a", "lora_b")]
    absent = [name for name in absent if name not in tensors]
    if absent:
        raise AdapterError(f"{folder}: {WEIGHTS} lacks {absent[0]}")
    parts = {
        path: LowRank(tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"], float(scale or 0), tensors.get(f"{path}.m"))
        for path in sorted(low_rank)
    }
    used = {f"{path}.{name}" for path in parts for name in ("lora_a", "lora_b", "m")}
    _check_consistent(kind, parts, [name for name in tensors if name not in used], values, folder)
    dropout = parameters.get("dropout") or 0.0 if isinstance(parameters, Mapping) else 0.0
    full = {name: tensor for name, tensor in tensors.items() if name not in used}
    return Adapter(parts, full, float(dropout), values.get("base_model_name_or_path") or values.get("model"))


def _check_consistent(
    kind: str, parts: Mapping[str, LowRank], others: list[str], values: JsonMapping, folder: Path
) -> None:
    """Raise AdapterError where the tensors aren't those that the config says: which of the two is right is unknown."""
    if kind == "full":
        return
    saved = values.get("modules_to_save") or []
    strange = [name for name in others if name.rpartition(".")[0] not in saved]
    if strange:
        raise AdapterError(
            f"{folder}: fine_tune_type is {kind}, and {WEIGHTS} has {strange[0]}, which would replace the base's: take "
            f"it out, or name {strange[0].rpartition('.')[0]} in modules_to_save of {CONFIG}"
        )
    wrong = [path for path, part in parts.items() if (part.magnitude is None) == (kind == "dora")]
    if wrong:
        has = "no magnitude m" if kind == "dora" else "a magnitude m, as DoRA's have"
        raise AdapterError(f"{folder}: fine_tune_type is {kind}, and {wrong[0]} has {has}")


def adapter_facts(adapter: Adapter) -> JsonObject:
    """Return what to show of an adapter, as plain values."""
    ranks = sorted({part.rank for part in adapter.parts.values()})
    numbers = {number for path in (*adapter.parts, *adapter.full_tensors) if (number := layer_number(path)) is not None}
    norms = {path: part.scale * _norm(part) for path, part in adapter.parts.items()}
    return {
        "kind": ("DoRA" if adapter.is_dora else "LoRA") if adapter.parts else "fully trained modules",
        "base": adapter.base,
        "values": adapter.parameters,
        "ranks": ranks,
        "scales": sorted({round(part.scale, 6) for part in adapter.parts.values()}),
        "blocks": sorted(numbers),
        "layers": sorted({path.rpartition(".")[2] for path in adapter.parts}),
        "modules_to_save": sorted(adapter.full_tensors),
        "largest": [f"{path} {norms[path]:.3g}" for path in sorted(norms, key=lambda path: -norms[path])[:3]],
    }


def _norm(part: LowRank) -> float:
    """Return the Frobenius norm of A B without building it."""
    a, b = part.a.astype(mx.float32), part.b.astype(mx.float32)
    squared = ((a.T @ a) * (b @ b.T)).sum()
    return float(mx.sqrt(mx.maximum(squared, 0)).tolist())  # type: ignore[arg-type]
