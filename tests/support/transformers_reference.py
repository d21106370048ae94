"""Random Llama models in transformers and the same weights in ours."""

from typing import Any

import mlx.core as mx
import numpy as np
import torch
from transformers import LlamaConfig
from transformers import LlamaForCausalLM as ReferenceLlama

from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.transformer import LlamaForCausalLM

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama3_rope(factor: float) -> dict[str, Any]:
    """The rope entry of Llama 3.1 (factor 8) and 3.2 (factor 32), in the 5.x form."""
    return {"rope_theta": 500000.0, "factor": factor, **LLAMA3_SCALING}


def small_config(**changes: Any) -> LlamaConfig:
    """A config of a tiny Llama in transformers."""
    values = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "attn_implementation": "eager",
    }
    return LlamaConfig(**{**values, **changes})


def reference_model(config: LlamaConfig, seed: int = 0) -> ReferenceLlama:
    """A transformers model with random weights of a size that makes attention and biases matter."""
    model = ReferenceLlama(config).float()
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
            parameter.copy_(noise * scale + (1.0 if parameter.ndim == 1 else 0.0))
    return model


def our_model(reference: ReferenceLlama) -> LlamaForCausalLM:
    """Our model with the weights of the reference, in float32."""
    model = LlamaForCausalLM(ModelConfig.from_dict(reference.config.to_dict()))
    weights = {name: mx.array(tensor.numpy()) for name, tensor in reference.state_dict().items()}
    if reference.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    model.load_weights(list(weights.items()), strict=True)
    model.eval()
    return model


def reference_logits(reference: ReferenceLlama, tokens: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
    """Logits (B, L, V) of transformers in float32."""
    with torch.no_grad():
        output = reference(
            torch.from_numpy(tokens), position_ids=None if positions is None else torch.from_numpy(positions)
        )
    return output.logits.numpy()
