"""What `llama3-mlx info` says of a draft head."""

from pathlib import Path

from ..checkpoint.weight_files import SINGLE_NAME
from ..model.config import load_json_object
from ..speculation.eagle_config import HeadConfig
from ..units import size_text
from .flags import Values
from .terminal import show

_NAME_WIDTH = 22


def describe_head(folder: Path) -> Values:
    """Return the facts of a draft head's folder as plain values, sizes in bytes."""
    config = HeadConfig.from_dict(load_json_object(folder / "config.json"))
    layer = config.layer
    # A folder that a head was trained in has more than its weights.
    own = folder / SINGLE_NAME
    files = [own] if own.exists() else list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return {
        "folder": str(folder),
        "kind": "draft head",
        "target": config.target,
        "target_hidden_size": config.target_hidden_size,
        "target_vocab_size": layer.vocab_size,
        "target_depths": list(config.depths) if config.depths else None,
        "draft_vocab_size": config.draft_vocab_size,
        "hidden_size": layer.hidden_size,
        "intermediate_size": layer.intermediate_size,
        "heads": layer.num_attention_heads,
        "kv_heads": layer.num_key_value_heads,
        "quantization": layer.quantization.to_dict() if layer.quantization else None,
        "stored_dtype": layer.dtype,
        "file_bytes": sum(path.stat().st_size for path in files),
    }


def print_head(facts: Values) -> None:
    """Print the facts of a draft head."""
    scheme, depths = facts["quantization"], facts["target_depths"]
    stored = (
        f"{scheme['bits']} bits, groups of {scheme['group_size']}" if scheme else facts["stored_dtype"] or "unknown"
    )
    rows = [
        ("draft head", facts["folder"]),
        ("drafts for", facts["target"] or "a model that it doesn't name"),
        (
            "of the model",
            f"hidden states of {facts['target_hidden_size']}, vocabulary of {facts['target_vocab_size']:,}",
        ),
        ("at depths", ", ".join(map(str, depths)) if depths else "2, half and all but three of its layers"),
        (
            "layer",
            f"{facts['hidden_size']} x {facts['intermediate_size']}, {facts['heads']} query and {facts['kv_heads']} "
            "key/value heads",
        ),
        ("drafts", f"{facts['draft_vocab_size']:,} tokens"),
        ("stored as", stored),
        ("weights", size_text(facts["file_bytes"])),
    ]
    for name, value in rows:
        show(f"{name:<{_NAME_WIDTH}}{value}", indent=_NAME_WIDTH)
