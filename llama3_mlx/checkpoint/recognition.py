"""Recognizes what is given as a model and is something else, and says in one line what to do with it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..json_types import JsonMapping
from .safetensors_files import TensorInfo

DRAFT_HEAD = (
    "a draft head (EAGLE) for another model, which can't generate by itself: take that model, and this as its --draft"
)
_PACKED_SUFFIXES = {
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".weight_shape": "compressed-tensors",
    ".SCB": "bitsandbytes (8 bits)",
    ".absmax": "bitsandbytes (4 bits)",
    ".weight_scale": "FP8",
    ".weight_scale_inv": "FP8",
}


def weightless_folder(folder: Path) -> str:
    """Return what is wrong with a folder in which no safetensors file holds weights."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    return other_folder(folder) or f"{folder} has no model.safetensors and no model.safetensors.index.json"


def other_folder(folder: Path) -> str | None:
    """Return what a folder is in place of a model's, judged by the names of its files; None if nothing known."""
    if (folder / "adapter_config.json").exists() or (folder / "adapters.safetensors").exists():
        return f"{folder} is an adapter, not a model: name its base model with -m and this folder with --adapter"
    gguf_files = sorted(path.name for path in folder.glob("*.[gG][gG][uU][fF]"))
    if gguf_files:
        return f"{folder} holds GGUF files: convert one first: llama3-mlx convert {folder / gguf_files[0]} DEST"
    if (folder / "params.json").exists() or any(folder.glob("consolidated.*.pth")):
        return f"{folder} holds Meta's own files: convert them first: llama3-mlx convert {folder} DEST"
    torch_files = sorted(path.name for path in folder.glob("*.bin"))
    if torch_files:
        return (
            f"{folder} has PyTorch weights ({torch_files[0]}), which can run code when read; save them as safetensors "
            "(model.save_pretrained(..., safe_serialization=True)) or take a revision that has model.safetensors"
        )
    return None


def other_tensors(names: Iterable[str]) -> str | None:
    """Return what tensors under these names are in place of a Llama's, None if nothing known."""
    found = list(names)
    if any(".lora_" in name or ".base_layer." in name for name in found):
        return (
            "the weights are those of an adapter, apart or not merged with its base: give it as --adapter, or fuse it "
            "first (merge_and_unload in PEFT)"
        )
    if any(name.endswith("attention.wq.weight") for name in found):
        return "the tensors have Meta's names: convert the folder of Meta's own files (consolidated.*.pth) instead"
    if "fc.weight" in found and not any(name.startswith("model.layers.1.") for name in found):
        return f"the weights are {DRAFT_HEAD}"
    return None


def is_draft_head(values: JsonMapping) -> bool:
    """Return whether a config.json is that of an EAGLE-3 draft head, in any of its public forms."""
    names = values.get("architectures")
    stated = [str(name).lower() for name in names] if isinstance(names, list) else []
    return (
        values.get("speculators_model_type") == "eagle3"
        or "draft_vocab_size" in values
        or any("eagle3" in name for name in stated)
    )


def foreign_quantization(tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return the kind of quantization that packed the tensors, None where none but MLX's did."""
    for name, info in tensors.items():
        if info.dtype.startswith("F8"):
            return "FP8"
        for suffix, kind in _PACKED_SUFFIXES.items():
            if name.endswith(suffix):
                return kind
    return None
