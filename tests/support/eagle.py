"""Random EAGLE-3 draft heads, and folders of them in the public forms."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from llama3_mlx.speculation.eagle_config import HeadConfig
from llama3_mlx.speculation.eagle_head import EagleHead

from .transformers_reference import llama3_rope


def head_values(**changes: Any) -> dict[str, Any]:
    """A config.json in the nested form, of a head for the tiny models of `small_config`."""
    layer = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 320,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_parameters": llama3_rope(8.0),
        "torch_dtype": "float32",
    }
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": 256,
        "transformer_layer_config": layer,
        **changes,
    }


def head_config(**changes: Any) -> HeadConfig:
    """The config of a head of 256 tokens."""
    return HeadConfig.from_dict(head_values(**changes))


def random_head(config: HeadConfig, *, seed: int = 0) -> EagleHead:
    """A head with random weights of a size that makes every part matter."""
    head, key = EagleHead(config), mx.random.key(seed)
    weights: list[tuple[str, mx.array]] = tree_flatten(head.parameters())  # type: ignore[assignment]
    drawn = []
    for name, weight in weights:
        key, own = mx.random.split(key)
        noise = mx.random.normal(weight.shape, key=own)
        drawn.append((name, noise * weight.shape[-1] ** -0.5 if weight.ndim == 2 else 1 + 0.2 * noise))
    head.update(tree_unflatten(drawn))
    if config.draft_vocab_size < config.layer.vocab_size:
        head.map_tokens(mx.arange(config.draft_vocab_size))
    head.eval()
    return head
