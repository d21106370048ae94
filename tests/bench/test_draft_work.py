"""What a draft step of a head does beside its model's decode step, at the shapes of Llama 3.1 8B."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from llama3_mlx.bench.counting import Work, count_work
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.fused_projections import join_layer
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.speculation.eagle_config import HeadConfig
from llama3_mlx.speculation.eagle_drafter import EagleDrafter
from llama3_mlx.speculation.eagle_head import EagleHead

# config.json of meta-llama/Llama-3.1-8B-Instruct and of its head in vllm-project/speculators#53.
LAYER: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
}
HEAD = {
    "draft_vocab_size": 32000,
    "transformer_layer_config": {**LAYER, "num_hidden_layers": 1},
    "speculators_model_type": "eagle3",
}
DEPTH = 256


def quantized(module: nn.Module) -> None:
    """Make a model of 4 bits; its weights are zeros."""
    module.apply(lambda array: array.astype(mx.bfloat16))
    nn.quantize(module, group_size=64, bits=4)
    module.update(tree_map(lambda array: mx.zeros(array.shape, array.dtype), module.parameters()))
    mx.eval(module.parameters())


def filled(cache: Any, n_kv_heads: int, head_dim: int) -> None:
    cache.lengths = [DEPTH]
    for layer in cache.layers:
        layer.buffer.write(0, [mx.zeros((1, n_kv_heads, DEPTH, head_dim), mx.bfloat16)] * 2)
    mx.eval(cache.arrays)


def target_of(n_layers: int) -> tuple[LlamaForCausalLM, Work]:
    """A model with so many of the layers, and the work of its decode step."""
    model = LlamaForCausalLM(ModelConfig.from_dict({**LAYER, "num_hidden_layers": n_layers}))
    quantized(model)
    for layer in model.model.layers:
        join_layer(layer)
    cache = model.make_cache()
    filled(cache, 8, 128)
    return model, count_work(
        lambda token: mx.argmax(model.head(model.hidden(token, cache)[:, -1]), -1), mx.array([[0]])
    )


def test_a_draft_step_reads_a_twentieth_of_its_model_in_20_launches() -> None:
    """Norm, rope and attention are one launch each, as on a GPU. All layers of the model read as much as its second."""
    (model, one), (_, two) = target_of(1), target_of(2)
    target_bytes = one.bytes_read + 31 * (two.bytes_read - one.bytes_read)
    head = EagleHead(HeadConfig.from_dict(HEAD))
    quantized(head)
    join_layer(head.layers[0])
    ids = mx.arange(32000, dtype=mx.int32)
    head.map_tokens(ids)
    mx.eval(head.parameters(), ids)
    drafter = EagleDrafter(head, model)
    filled(drafter.cache, 8, 128)
    token, features = mx.array([0]), mx.zeros((1, 1, 4096), mx.bfloat16)
    # The first step keeps the embeddings of the reduced vocabulary.
    mx.eval(drafter.step(token, features), drafter.cache.arrays)
    work = count_work(drafter.step, token, features)
    assert target_bytes > 4e9
    assert work.bytes_read <= target_bytes / 20
    assert work.launches <= 20
