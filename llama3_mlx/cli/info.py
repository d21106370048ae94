"""`llama3-mlx info`: architecture, sizes and what fits this machine, without loading the model."""

import argparse
import json
import sys
from pathlib import Path

from ..blas import blas_description
from ..checkpoint.folder import ModelFolder
from ..checkpoint.recognition import is_draft_head
from ..device import compute_dtype_name, device_info, working_memory_bytes
from ..library.catalogue import ModelEntry
from ..model.config import ModelConfig, load_json_object
from ..model.memory_estimate import Needs, estimate
from ..model.quantization import Quantization, Scheme
from ..model.unpacked import products_description
from ..units import size_text
from .flags import Values, positive
from .head_info import describe_head, print_head
from .model_choice import MODEL_HELP, choose_model, write_notes
from .terminal import show, tell

_CONTEXTS = (2048, 8192, 32768, 131072)
_NAME_WIDTH = 24


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `info`."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-m", "--model", dest="named", metavar="MODEL", help="the same as a flag")
    parser.add_argument("--context", type=positive, metavar="N", help="also show the memory at a context of N tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the model's facts."""
    folder = choose_model(args.model or args.named)
    if (folder / "config.json").exists() and is_draft_head(load_json_object(folder / "config.json")):
        head = describe_head(folder)
        if args.json:
            sys.stdout.write(json.dumps(head, indent=2) + "\n")
        else:
            print_head(head)
        return 0
    facts = describe(folder, args.context)
    if args.context and args.context > facts["context"]:
        tell(f"note: {args.context:,} tokens are beyond the model's context of {facts['context']:,}")
    write_notes(facts["notes"])
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        _print(facts)
    return 0


def describe(folder: Path, context: int | None) -> Values:
    """Return the facts of a model folder as plain values, sizes in bytes."""
    opened = ModelFolder(folder)
    config = opened.config
    dtype = compute_dtype_name(config.dtype)
    needs, stored_bytes = estimate(config, dtype), estimate(config).weight_bytes
    memory = working_memory_bytes()
    limit = config.max_position_embeddings
    contexts = sorted({*(n for n in _CONTEXTS if n < limit), limit, *([context] if context else [])})
    return {
        "folder": str(folder),
        "notes": list(opened.notes),
        "architecture": _architecture(config),
        "parameters": needs.parameters,
        "bits_per_weight": round(stored_bytes * 8 / needs.parameters, 3),
        "quantization": config.quantization.to_dict() if config.quantization else None,
        "stored_dtype": config.dtype,
        "compute_dtype": dtype,
        "context": limit,
        "stored_bytes": stored_bytes,
        "file_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        "disk_bytes": ModelEntry("", folder).size_bytes,
        "weight_bytes": needs.weight_bytes,
        "kv_bytes_per_token": needs.kv_bytes_per_token,
        "memory_bytes_at_context": {str(n): needs.at_context(n) for n in contexts},
        "machine": {
            "device": device_info().get("device_name", ""),
            "blas": blas_description(),
            "quantized_products": products_description(needs.unpacked_bytes),
            "memory_bytes": memory,
            "longest_context": min(limit, needs.longest_context(memory)),
            "fits": _what_fits(config, memory),
        },
    }


def _architecture(config: ModelConfig) -> Values:
    return {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "tied_head": config.tie_word_embeddings,
        "rope_theta": config.rope_theta,
        "rope_type": config.rope_scaling.rope_type,
        "rope_factor": config.rope_scaling.factor,
    }


def _what_fits(config: ModelConfig, memory: int) -> dict[str, int]:
    """Return the longest context that fits this machine for the usual quantizations of this architecture (0: none)."""
    from dataclasses import replace

    forms: dict[str, tuple[Quantization | None, str]] = {
        "4 bits": (Quantization(Scheme(4)), "float16"),
        "8 bits": (Quantization(Scheme(8)), "float16"),
        "16 bits": (None, "float16"),
    }
    limit = config.max_position_embeddings
    needs: dict[str, Needs] = {
        form: estimate(replace(config, quantization=quantization), dtype)
        for form, (quantization, dtype) in forms.items()
    }
    return {form: min(limit, need.longest_context(memory)) for form, need in needs.items()}


def _print(facts: Values) -> None:
    architecture, machine = facts["architecture"], facts["machine"]
    scheme = facts["quantization"]
    stored = f"{scheme['bits']} bits, groups of {scheme['group_size']}" if scheme else facts["stored_dtype"]
    fits = machine["fits"].items()
    rope = f"theta {architecture['rope_theta']:g}, {architecture['rope_type']}"
    if architecture["rope_type"] != "default":
        rope += f" factor {architecture['rope_factor']:g}"
    rows = [
        ("model", facts["folder"]),
        ("parameters", f"{facts['parameters']:,}"),
        (
            "layers",
            f"{architecture['layers']} of {architecture['hidden_size']} x {architecture['intermediate_size']}, "
            f"{architecture['heads']} query and {architecture['kv_heads']} key/value heads of "
            f"{architecture['head_dim']}",
        ),
        ("vocabulary", f"{architecture['vocab_size']:,}, {'tied' if architecture['tied_head'] else 'own'} head"),
        ("positions", rope),
        ("stored as", f"{stored}, {facts['bits_per_weight']:.2f} bits a weight"),
        ("weights", size_text(facts["stored_bytes"])),
        ("on disk", f"{size_text(facts['disk_bytes'])} with the tokenizer and all else"),
        ("computes in", facts["compute_dtype"]),
        ("context", f"{facts['context']:,} tokens, {facts['kv_bytes_per_token']:,} bytes each"),
        *((f"memory at {int(tokens):,}", size_text(size)) for tokens, size in facts["memory_bytes_at_context"].items()),
        ("this machine", f"{machine['device']}, {size_text(machine['memory_bytes'])} for models"),
        ("BLAS", machine["blas"]),
        ("quantized weights", f"multiplied {machine['quantized_products']}"),
        ("longest context here", f"{machine['longest_context']:,}" if machine["longest_context"] else "does not fit"),
        *((f"  if stored in {form}", f"{tokens:,}" if tokens else "does not fit") for form, tokens in fits),
    ]
    for name, value in rows:
        show(f"{name:<{_NAME_WIDTH}}{value}", indent=_NAME_WIDTH)
