"""Which tensors a Llama has under Hugging Face's names, and the check of what a checkpoint holds against them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import CheckpointError
from .config import ModelConfig
from .quantization import Scheme

# Buffers that older checkpoints carry; they follow from the config.
_DERIVED = re.compile(r"(^|\.)rotary_emb\.inv_freq$|^rope\.freqs$")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_SHOWN = 2


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor, unquantized, in the model's order."""
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    heads, kv_heads = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    linears = {
        "self_attn.q_proj": ((heads, D), config.attention_bias),
        "self_attn.k_proj": ((kv_heads, D), config.attention_bias),
        "self_attn.v_proj": ((kv_heads, D), config.attention_bias),
        "self_attn.o_proj": ((D, heads), config.attention_bias),
        "mlp.gate_proj": ((F, D), config.mlp_bias),
        "mlp.up_proj": ((F, D), config.mlp_bias),
        "mlp.down_proj": ((D, F), config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, D)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (D,)
        for path, (shape, bias) in linears.items():
            shapes[f"{prefix}{path}.weight"] = shape
            if bias:
                shapes[f"{prefix}{path}.bias"] = shape[:1]
        shapes[f"{prefix}post_attention_layernorm.weight"] = (D,)
    shapes["model.norm.weight"] = (D,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (V, D)
    return shapes


def stored_tensors(config: ModelConfig, schemes: Mapping[str, Scheme]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor when the modules at the paths of `schemes` are quantized."""
    return quantized_shapes(expected_tensors(config), schemes)


def quantized_shapes(
    unquantized: Mapping[str, tuple[int, ...]], schemes: Mapping[str, Scheme]
) -> dict[str, tuple[int, ...]]:
    """Return what becomes of unquantized tensors when the modules at the paths of `schemes` are quantized."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in unquantized.items():
        path = name.removesuffix(".weight")
        scheme = schemes.get(path) if path != name else None
        if scheme is None:
            shapes[name] = shape
            continue
        rows, columns = shape
        shapes[name] = (rows, columns * scheme.bits // 32)
        shapes[f"{path}.scales"] = (rows, columns // scheme.group_size)
        if scheme.mode == "affine":
            shapes[f"{path}.biases"] = (rows, columns // scheme.group_size)
    return shapes


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: Path | str
) -> set[str]:
    """Return the names to leave out: derived buffers, and the head of a checkpoint whose config ties it.

    Raises CheckpointError with every missing, unexpected and misshapen tensor at once.
    """
    ignored = {name for name in found if _DERIVED.search(name)}
    if not any(name.startswith("lm_head.") for name in expected):
        ignored |= {name for name in found if name.startswith("lm_head.")}
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected and name not in ignored]
    misshapen = [
        f"{name} is {list(found[name])} and should be {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of wrong shape": misshapen}
    problems = [f"{kind}: {_listed(names)}" for kind, names in kinds.items() if names]
    if problems:
        hint = "".join(f"{line}; " for line in _explained(expected, found))
        raise CheckpointError(f"{where}: the tensors don't fit config.json; {hint}" + "; ".join(problems))
    return ignored


def _explained(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield what one wrong field of config.json does to many tensors."""
    layers = [len({match[1] for match in map(_LAYER.match, names) if match}) for names in (expected, found)]
    if layers[0] != layers[1]:
        yield f"num_hidden_layers is {layers[0]}, and there are {layers[1]} layers"
    rows = [names.get("model.embed_tokens.weight", (0,))[0] for names in (expected, found)]
    if all(rows) and rows[0] != rows[1]:
        yield f"vocab_size is {rows[0]}, and the embedding has {rows[1]} rows"
    if "lm_head.weight" in expected and "lm_head.weight" not in found:
        yield "tie_word_embeddings isn't true, and there is no lm_head: set it to true if the model's head is tied"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
