"""Random EAGLE-3 draft heads, and folders of them in the public forms."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten, tree_unflatten
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

from llama3_mlx import Llama
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.speculation import Costs
from llama3_mlx.speculation.eagle_config import HeadConfig
from llama3_mlx.speculation.eagle_head import EagleHead

from .transformers_reference import llama3_rope, small_config

CHEAP = Costs(verify=0.01, draft=0.005)


def cheap_drafts(llama: Llama, costs: Costs = CHEAP) -> Llama:
    """Let drafts cost little: what drafts for a tiny model is a large part of it, and would never pay."""
    llama.engine.speculators.assume(costs)
    return llama


def head_values(*, layer: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A config.json in the nested form, of a head for the tiny models of `small_config`."""
    fields = {
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
        **(layer or {}),
    }
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": 256,
        "transformer_layer_config": fields,
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
    # Lazy arrays belong to this thread, and the engine has its own.
    mx.eval(head.parameters(), head.token_ids if head.token_ids is not None else [])
    head.eval()
    return head


def knowing_head(model: LlamaForCausalLM, **changes: Any) -> EagleHead:
    """A head for a `calm` model that is often right: it says what the model's head says of the last embedding alone.

    Its attention looks at its own position, by rotary distance, and passes the normed embedding on; of the features
    little comes through.
    """
    layer = {"attention_bias": True, "num_key_value_heads": 4}
    config = head_config(**{"eagle_aux_hidden_state_layer_ids": [0, 2, 4], "layer": layer, **changes})
    head = random_head(config)
    block, n, D = head.layers[0], config.draft_vocab_size, config.layer.hidden_size
    attention, zeros = block.self_attn, mx.zeros((D, D))
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight = mx.zeros((D, 2 * D))
        projection.bias = 12 * mx.ones(D)
    attention.v_proj.weight = mx.concatenate([mx.eye(D), zeros], axis=1)
    attention.o_proj.weight = mx.eye(D)
    attention.v_proj.bias = attention.o_proj.bias = mx.zeros(D)
    block.input_layernorm.weight = mx.ones(D)
    block.mlp.down_proj.weight = 0 * block.mlp.down_proj.weight
    head.fc.weight = 0.02 * head.fc.weight
    head.norm.weight = model.model.norm.weight
    head.lm_head.weight = model.lm_head.weight[:n]
    mx.eval(head.parameters())
    return head


def head_arrays(head: EagleHead) -> dict[str, mx.array]:
    """The tensors of a head and its two maps, under the names of the nested form."""
    config = head.config
    arrays: dict[str, mx.array] = dict(tree_flatten(head.parameters()))
    if head.token_ids is not None:
        flags = mx.zeros(config.layer.vocab_size, mx.bool_)
        flags[head.token_ids] = True
        arrays["d2t"] = head.token_ids.astype(mx.int64) - mx.arange(config.draft_vocab_size)
        arrays["t2d"] = flags
    return arrays


def save_head(folder: Path, head: EagleHead, values: dict[str, Any], **changed: mx.array) -> Path:
    """Write a head as vllm-project/speculators does; `changed` takes the place of tensors with _ for dots."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values))
    mx.save_safetensors(str(folder / "model.safetensors"), {**head_arrays(head), **changed}, {"format": "pt"})
    return folder


def save_flat_head(folder: Path, head: EagleHead, values: dict[str, Any]) -> Path:
    """Write a head as SafeAILab/EAGLE does: a flat config, `midlayer.` names, a state dict by torch.save."""
    layer = values["transformer_layer_config"]
    beside = {name: values[name] for name in values if name not in ("transformer_layer_config", "architectures")}
    beside.pop("speculators_model_type")
    config = {**layer, **beside, "architectures": ["LlamaForCausalLMEagle3"]}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    state = {
        name.replace("layers.0.", "midlayer."): torch.from_numpy(np.array(array))
        for name, array in head_arrays(head).items()
    }
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def reference_layer(head: EagleHead, embedded: torch.Tensor, features: torch.Tensor, before: bool) -> torch.Tensor:
    """The layer's output (B, L, D) by transformers' attention, norms, MLP and rotary embedding."""
    layer = head.config.layer
    config = small_config(
        hidden_size=layer.hidden_size,
        num_hidden_layers=1,
        rope_parameters=llama3_rope(8.0),
        vocab_size=layer.vocab_size,
    )
    block = LlamaDecoderLayer(config, 0)
    D = layer.hidden_size
    for name in ("q_proj", "k_proj", "v_proj"):
        old = getattr(block.self_attn, name)
        setattr(block.self_attn, name, torch.nn.Linear(2 * D, old.out_features, bias=False))
    own: list[tuple[str, mx.array]] = tree_flatten(head.layers[0].parameters())  # type: ignore[assignment]
    weights = {name: torch.from_numpy(np.array(array)) for name, array in own}
    hidden_norm = LlamaRMSNorm(D, eps=config.rms_norm_eps)
    hidden_norm.load_state_dict({"weight": weights.pop("hidden_norm.weight")})
    block.load_state_dict(weights)
    L = embedded.shape[1]
    mask = torch.full((L, L), float("-inf")).triu(1)[None, None]
    positions = LlamaRotaryEmbedding(config)(embedded, torch.arange(L)[None])
    normed = hidden_norm(features)
    both = torch.cat([block.input_layernorm(embedded), normed], -1)
    h = block.self_attn(hidden_states=both, position_embeddings=positions, attention_mask=mask)[0]
    h = h + (normed if before else features)
    return h + block.mlp(block.post_attention_layernorm(h))
