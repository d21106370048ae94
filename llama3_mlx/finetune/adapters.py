"""Adapter folders: `adapters.safetensors` and `adapter_config.json` as mlx-lm writes and reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..config import load_json_object
from ..errors import CheckpointError, ConfigError
from ..model import LlamaForCausalLM
from ..safetensors_files import read_header
from .lora import LoRALinear, module_at, replace_module, weight_shape

WEIGHTS_NAME = "adapters.safetensors"
CONFIG_NAME = "adapter_config.json"


def load_adapter(model: LlamaForCausalLM, folder: Path) -> None:
    """Put the LoRA adapter in `folder` on the model, whose projections must not be joined.

    Raises CheckpointError or ConfigError where the adapter is damaged or made for another model.
    """
    settings = _settings(folder)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_NAME}: is it the folder of an adapter?")
    infos = read_header(path)
    modules = _modules(folder, {name: info.shape for name, info in infos.items()})
    _check_fits(model, modules, folder)
    loaded: Any = mx.load(str(path))
    for module, (rank, _, _) in modules.items():
        layer = LoRALinear(module_at(model, module), rank, settings["scale"])
        layer.lora_a, layer.lora_b = (loaded[f"{module}.lora_{part}"].astype(mx.float32) for part in "ab")
        layer.eval()
        replace_module(model, module, layer)
    mx.eval(model.parameters())


def _settings(folder: Path) -> dict[str, Any]:
    values = load_json_object(folder / CONFIG_NAME)
    if "peft_type" in values:
        raise ConfigError(f"{folder} is a PEFT adapter; accepted are adapters in the layout of mlx-lm")
    kind = values.get("fine_tune_type", "lora")
    if kind != "lora":
        raise ConfigError(f"{folder / CONFIG_NAME}: fine_tune_type is {kind!r}; accepted is 'lora'")
    parameters = values.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, Mapping) else None
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise ConfigError(f"{folder / CONFIG_NAME}: lora_parameters.scale must be a number, not {scale!r}")
    return {"scale": float(scale)}


def _modules(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int, int]]:
    """Return (rank, in, out) of each adapted module; raises CheckpointError naming tensors without their pair."""
    modules: dict[str, tuple[int, int, int]] = {}
    problems = [name for name in shapes if not name.endswith((".lora_a", ".lora_b"))]
    for path in dict.fromkeys(name.rpartition(".")[0] for name in shapes if name not in problems):
        a, b = shapes.get(f"{path}.lora_a"), shapes.get(f"{path}.lora_b")
        if a is None or b is None or len(a) != 2 or len(b) != 2 or a[1] != b[0]:
            problems.append(path)
        else:
            modules[path] = (a[1], a[0], b[1])
    if problems or not modules:
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME} holds no whole LoRA pairs for: {', '.join(problems) or 'anything'}"
        )
    return modules


def _check_fits(model: LlamaForCausalLM, modules: Mapping[str, tuple[int, int, int]], folder: Path) -> None:
    problems = []
    for path, (_, n_in, n_out) in modules.items():
        try:
            shape = weight_shape(module_at(model, path))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            problems.append(f"the model has no {path}")
            continue
        if shape != (n_out, n_in):
            problems.append(f"{path} is {list(shape)}, the adapter is for {[n_out, n_in]}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"the adapter {folder} belongs to another model: {'; '.join(problems[:5])}{more}")
