"""The Llama model: pre-norm decoder with grouped-query attention, rotary positions and a SiLU-gated MLP.

Parameter paths and layout are Hugging Face's (half-split rotary pairs). Dimension letters, here and elsewhere:
B batch, L new positions, S cached and new positions, D hidden size, H query heads, K key/value heads,
F intermediate size, V vocabulary, r LoRA rank.

Source: https://github.com/meta-llama/llama3 (llama/model.py) for the mathematics; transformers
`modeling_llama.py` for names and biases.
"""

from collections.abc import Sequence
from functools import partial
from typing import Protocol, cast

import mlx.core as mx
import mlx.nn as nn

from .config import ModelConfig
from .rope import dynamic_periods, rope_periods

Mask = mx.array | str | None


class Cache(Protocol):
    """What attention asks of a layer's cache; every cache kind gives it."""

    @property
    def offset(self) -> int | mx.array:
        """Position of the first new token: one for all rows, or (B,)."""

    def update(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Append (B, K, L, head_dim) and return (B, K, S, head_dim)."""

    def mask(self, length: int) -> Mask:
        """Return the mask of `length` new positions as `mx.fast.scaled_dot_product_attention` takes it."""


@partial(mx.compile, shapeless=True)
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Return silu(gate) * up. Source: https://arxiv.org/abs/2002.05202."""
    return nn.silu(gate) * up


class Rope:
    """Rotates queries and keys; holds the periods of the model's scaling."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        kind = config.rope_scaling.rope_type
        self.base = config.rope_theta if kind in ("default", "dynamic") else None
        self.periods = None if self.base else rope_periods(config.head_dim, config.rope_theta, config.rope_scaling)

    def for_length(self, length: int | mx.array) -> "Rope":
        """Return the rotation for sequences of `length` positions; only dynamic scaling depends on it."""
        config = self.config
        if config.rope_scaling.rope_type != "dynamic":
            return self
        length = length if isinstance(length, int) else int(cast(int, length.max().item()))
        if length <= config.max_position_embeddings:
            return self
        scaled = Rope.__new__(Rope)
        scaled.config, scaled.base = config, None
        scaled.periods = dynamic_periods(
            config.head_dim, config.rope_theta, config.rope_scaling, length, config.max_position_embeddings
        )
        return scaled

    def __call__(self, x: mx.array, offset: int | mx.array) -> mx.array:
        """Rotate (B, heads, L, head_dim) from position `offset` on."""
        return mx.fast.rope(
            x, self.config.head_dim, traditional=False, base=self.base, scale=1.0, offset=offset, freqs=self.periods
        )


class Attention(nn.Module):
    """Grouped-query attention: H query heads share K key/value heads. Source: https://arxiv.org/abs/2305.13245.

    Either `q_proj`, `k_proj`, `v_proj` are there, or `qkv_proj` in their place (see joined.py).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, self.n_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.n_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.n_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, config.hidden_size, bias=bias)

    def _rotated(self, x: mx.array, rope: Rope, offset: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        B, L, _ = x.shape
        H, K = self.n_heads, self.n_kv_heads

        def heads(y: mx.array, n: int) -> mx.array:
            return y.reshape(B, L, n, self.head_dim).transpose(0, 2, 1, 3)

        if "qkv_proj" in self:
            qkv = heads(self.qkv_proj(x), H + 2 * K)
            rotated = rope(qkv[:, : H + K], offset)
            return rotated[:, :H], rotated[:, H:], qkv[:, H + K :]
        queries, keys = rope(heads(self.q_proj(x), H), offset), rope(heads(self.k_proj(x), K), offset)
        return queries, keys, heads(self.v_proj(x), K)

    def __call__(self, x: mx.array, rope: Rope, mask: Mask, cache: Cache | None) -> mx.array:
        B, L, _ = x.shape
        queries, keys, values = self._rotated(x, rope, cache.offset if cache is not None else 0)
        if cache is not None:
            keys, values = cache.update(keys, values)
        attend = getattr(cache, "attend", mx.fast.scaled_dot_product_attention)
        output = attend(queries, keys, values, scale=self.scale, mask=mask)
        return self.o_proj(output.transpose(0, 2, 1, 3).reshape(B, L, -1))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)); either `gate_proj` and `up_proj`, or `gate_up_proj` (see joined.py)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, F, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(D, F, bias=bias)
        self.up_proj = nn.Linear(D, F, bias=bias)
        self.down_proj = nn.Linear(F, D, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        if "gate_up_proj" in self:
            gate, up = mx.split(self.gate_up_proj(x), 2, axis=-1)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(swiglu(gate, up))


class TransformerBlock(nn.Module):
    """h = x + attention(norm(x)); h + mlp(norm(h))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, rope: Rope, mask: Mask, cache: Cache | None) -> mx.array:
        h = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        return h + self.mlp(self.post_attention_layernorm(h))


class Decoder(nn.Module):
    """Embedding, blocks and final norm; under `model.` in a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [TransformerBlock(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class LlamaForCausalLM(nn.Module):
    """A Llama with its language-model head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._rope = Rope(config)

    def hidden(self, tokens: mx.array, cache: Sequence[Cache] | None = None, mask: Mask = "causal") -> mx.array:
        """Return the normed hidden states (B, L, D) of token ids (B, L).

        With a cache the mask is the cache's. Without one it is `mask`: "causal", or an array that broadcasts to
        (B, H, L, L), boolean (true: attend) or additive.
        """
        L = tokens.shape[1]
        layers = self.model.layers
        caches: Sequence[Cache | None] = cache if cache is not None else [None] * len(layers)
        first = caches[0] if caches else None
        rope = self._rope.for_length(L if first is None else first.offset + L)
        if first is not None:
            mask = first.mask(L)
        h = self.model.embed_tokens(tokens)
        for layer, layer_cache in zip(layers, caches, strict=True):
            h = layer(h, rope, mask, layer_cache)
        return self.model.norm(h)

    def head(self, h: mx.array) -> mx.array:
        """Return logits (..., V) of hidden states (..., D); call it on the positions that are needed, no others."""
        return self.lm_head(h) if "lm_head" in self else self.model.embed_tokens.as_linear(h)

    def __call__(self, tokens: mx.array, cache: Sequence[Cache] | None = None) -> mx.array:
        """Return the logits (B, L, V) of every position."""
        return self.head(self.hidden(tokens, cache))
