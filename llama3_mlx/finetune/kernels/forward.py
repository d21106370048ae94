"""The forward pass of training: Llama's blocks over packed rows, keeping what memory allows for the backward one.

none   everything is kept.
light  a block keeps its matrix products' results and makes norms, gates and attention scores again: a half of the
       memory for a few per cent of time, since a product whose result isn't needed is not made twice.
full   a block keeps its input alone and runs again: least memory, about a third more time.
"""

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn

from ...model.feature_tap import FeatureTap
from ...model.transformer import LlamaForCausalLM, Rope, TransformerBlock
from .exponential import gated
from .packed_attention import PackedAttention


def hidden_states(
    model: LlamaForCausalLM,
    tokens: mx.array,
    segments: mx.array,
    *,
    longest: int | None = None,
    keep: str = "light",
    attention: PackedAttention | None = None,
    tap: FeatureTap | None = None,
) -> mx.array:
    """Return the normed hidden states (B, L, D) of packed rows.

    tokens (B, L); segments (B, L) number the examples of a row, 0 for padding. `longest` is the length of the longest
    example there can be, `keep` one of none, light and full; `attention` that of these segments, if it is made.
    """
    attention = attention or PackedAttention(segments, longest)
    rope = model.rope.for_length(longest or tokens.shape[1])
    block = {"none": _plain, "light": _light, "full": _full}[keep]
    h = model.model.embed_tokens(tokens)
    for depth, layer in enumerate(model.model.layers):
        if tap is not None:
            tap.gather(depth, h)
        h = block(layer, h, rope, attention)
    if tap is not None:
        tap.gather(len(model.model.layers), h)
    return model.model.norm(h)


def checkpointed(modules: list[nn.Module], run: Callable[..., Any], *inputs: mx.array) -> Any:
    """Return run(*inputs), whose intermediate results are made again for the gradient of inputs and parameters.

    `modules` are those that `run` uses: their trained parameters go in as inputs too.
    """

    def with_parameters(parameters: list[Any], *inputs: mx.array) -> Any:
        for module, tree in zip(modules, parameters, strict=True):
            module.update(tree)
        return run(*inputs)

    return mx.checkpoint(with_parameters)([module.trainable_parameters() for module in modules], *inputs)


def _plain(layer: TransformerBlock, h: mx.array, rope: Rope, attention: PackedAttention) -> mx.array:
    h = h + layer.self_attn(layer.input_layernorm(h), rope, None, attention)
    return h + layer.mlp.down_proj(_gated(*_gate_and_up(layer, h)))


def _full(layer: TransformerBlock, h: mx.array, rope: Rope, attention: PackedAttention) -> mx.array:
    return checkpointed([layer], lambda h: _plain(layer, h, rope, attention), h)


def _light(layer: TransformerBlock, h: mx.array, rope: Rope, attention: PackedAttention) -> mx.array:
    attend, mlp = layer.self_attn, layer.mlp
    queries, keys, values = checkpointed(
        [layer.input_layernorm, attend], lambda h: attend.rotated_qkv(layer.input_layernorm(h), rope, 0), h
    )
    output = attention.attend(queries, keys, values, scale=attend.scale)
    h = h + attend.o_proj(output.transpose(0, 2, 1, 3).reshape(h.shape[0], h.shape[1], -1))
    gate, up = checkpointed([layer.post_attention_layernorm, mlp], lambda h: _gate_and_up(layer, h), h)
    return h + checkpointed([mlp], lambda gate, up: mlp.down_proj(_gated(gate, up)), gate, up)


def _gated(gate: mx.array, up: mx.array) -> mx.array:
    return cast(mx.array, gated(gate, up))


def _gate_and_up(layer: TransformerBlock, h: mx.array) -> tuple[mx.array, mx.array]:
    x = layer.post_attention_layernorm(h)
    return layer.mlp.gate_proj(x), layer.mlp.up_proj(x)
