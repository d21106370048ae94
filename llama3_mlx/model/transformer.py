"""The Llama model: pre-norm decoder with grouped-query attention, rotary positions and a SiLU-gated MLP.

The forward pass ends in the caches: `LayerCache.attend` (kv_cache/plain.py and its siblings) writes keys and values
and computes attention. Parameter paths and layout are Hugging Face's (half-split rotary pairs).

Dimension letters, here and elsewhere: B batch, L new positions, S cached and new positions, D hidden size,
H query heads, K key/value heads, F intermediate size, V vocabulary, r LoRA rank.

Forward passes get submodules by subscript: as attributes, MLX looks them up in Python, which takes the host as long as
building an operation.

Source: https://github.com/meta-llama/llama3 (llama/model.py) for the mathematics; transformers
`modeling_llama.py` for names and biases.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn

from ..kv_cache import CacheOptions, ModelCache, make_cache
from ..kv_cache.step import Mask, Step
from .channel_scales import ChannelScales
from .config import ModelConfig
from .feature_tap import FeatureTap
from .rope import dynamic_periods, rope_periods


class Attends(Protocol):
    """What brings its own attention: a layer's cache, or what training uses in its place."""

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Any) -> mx.array:
        """Return attention (B, H, L, head_dim) of queries and new keys and values (B, heads, L, head_dim)."""


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

    def for_length(self, length: int) -> "Rope":
        """Return the rotation for sequences of `length` positions; only dynamic scaling depends on it."""
        config = self.config
        if config.rope_scaling.rope_type != "dynamic" or length <= config.max_position_embeddings:
            return self
        scaled = Rope.__new__(Rope)
        scaled.config, scaled.base = config, None
        scaled.periods = dynamic_periods(
            config.head_dim, config.rope_theta, config.rope_scaling, length, config.max_position_embeddings
        )
        return scaled

    def __call__(self, x: mx.array, offset: int | mx.array, scale: float = 1.0) -> mx.array:
        """Rotate (B, heads, L, head_dim) from position `offset` on, one for all rows or (B,); positions times scale."""
        return mx.fast.rope(
            x, self.config.head_dim, traditional=False, base=self.base, scale=scale, offset=offset, freqs=self.periods
        )


class Attention(nn.Module):
    """Grouped-query attention: H query heads share K key/value heads. Source: https://arxiv.org/abs/2305.13245.

    Either `q_proj`, `k_proj`, `v_proj` are there, or `qkv_proj` in their place (see fused_projections.py).
    """

    def __init__(self, config: ModelConfig, *, n_inputs: int | None = None) -> None:
        """`n_inputs` is the width of what queries, keys and values are projected from, by default the hidden size."""
        super().__init__()
        self.n_heads, self.n_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        bias, n_inputs = config.attention_bias, n_inputs or config.hidden_size
        self.q_proj = nn.Linear(n_inputs, self.n_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(n_inputs, self.n_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(n_inputs, self.n_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.n_heads * self.head_dim, config.hidden_size, bias=bias)

    def rotated_qkv(self, x: mx.array, rope: Rope, offset: int | mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Return queries (B, H, L, head_dim) and keys, both rotated, and values, each (B, K, L, head_dim)."""
        B, L, _ = x.shape
        H, K = self.n_heads, self.n_kv_heads

        def heads(y: mx.array, n: int) -> mx.array:
            return y.reshape(B, L, n, self.head_dim).transpose(0, 2, 1, 3)

        if "qkv_proj" in self:
            qkv = heads(self["qkv_proj"](x), H + 2 * K)
            rotated = rope(qkv[:, : H + K], offset)
            return rotated[:, :H], rotated[:, H:], qkv[:, H + K :]
        queries, keys = rope(heads(self.q_proj(x), H), offset), rope(heads(self.k_proj(x), K), offset)
        return queries, keys, heads(self.v_proj(x), K)

    def __call__(self, x: mx.array, rope: Rope, step: Step | Mask, cache: Attends | None) -> mx.array:
        B, L, _ = x.shape
        queries, keys, values = self.rotated_qkv(x, rope, step.offset if isinstance(step, Step) else 0)
        if cache is not None:
            output = cache.attend(queries, keys, values, scale=self.scale, step=step)
        else:
            assert not isinstance(step, Step), "a step belongs to a cache"
            output = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=step)
        return self["o_proj"](output.transpose(0, 2, 1, 3).reshape(B, L, -1))


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)); either `gate_proj` and `up_proj`, or `gate_up_proj` (see fused_projections.py)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, F, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(D, F, bias=bias)
        self.up_proj = nn.Linear(D, F, bias=bias)
        self.down_proj = nn.Linear(F, D, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        if "gate_up_proj" in self:
            gate, up = mx.split(self["gate_up_proj"](x), 2, axis=-1)
        else:
            gate, up = self.gate_proj(x), self.up_proj(x)
        return self["down_proj"](swiglu(gate, up))


class TransformerBlock(nn.Module):
    """h = x + attention(norm(x)); h + mlp(norm(h))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, rope: Rope, step: Step | Mask, cache: Attends | None) -> mx.array:
        h = x + self["self_attn"](self["input_layernorm"](x), rope, step, cache)
        return h + self["mlp"](self["post_attention_layernorm"](h))


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
        self.rope = Rope(config)
        # Where the weights come from, and what was done to their channels there.
        self.folder: Path | None = None
        self.channel_scales: ChannelScales | None = None

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype of hidden states."""
        # The last norm isn't part of every share of a model.
        norm: Any = self.model.layers[0].input_layernorm
        # An adapter may have put another in its place for the time that it is on.
        return norm.get("base", norm).weight.dtype

    def make_cache(self, options: CacheOptions | None = None) -> ModelCache:
        """Return an empty cache of this model, by default a plain one."""
        config = self.config
        return make_cache(config.num_hidden_layers, options, head_dim=config.head_dim, rotate=self.rope)

    def hidden(
        self,
        tokens: mx.array,
        cache: ModelCache | None = None,
        mask: Mask = "causal",
        *,
        tap: FeatureTap | None = None,
    ) -> mx.array:
        """Return the normed hidden states (B, L, D) of token ids (B, L).

        With a KV cache they continue its sequences and are appended to them. Without one the mask is `mask`: "causal",
        or an array that broadcasts to (B, H, L, L), boolean (true: attend) or additive. `tap` gets the hidden states
        between the layers that it wants.
        """
        if cache is None:
            return self.run(tokens, self.rope.for_length(tokens.shape[1]), mask, [None] * len(self.model.layers), tap)
        max_step = cache.max_step()
        if max_step is not None and tokens.shape[1] > max_step:
            first = self.hidden(tokens[:, :max_step], cache, tap=tap)
            return mx.concatenate([first, self.hidden(tokens[:, max_step:], cache, tap=tap)], axis=1)
        step = cache.step(*tokens.shape)
        h = self.run(tokens, self.rope.for_length(step.last + 1), step, cache.layers, tap)
        cache.advance(tokens.shape[1])
        return h

    @property
    def n_stages(self) -> int:
        """How many passes may be under way at a time, each at another stage: of one process, one."""
        return 1

    def begin(self, tokens: mx.array, cache: ModelCache, tap: FeatureTap | None = None) -> mx.array:
        """Begin a pass; return its hidden states as `hidden` does, to be evaluated after `complete` alone."""
        return self.hidden(tokens, cache, tap=tap)

    def complete(self, h: mx.array | None = None) -> None:
        """Have what `begin` returned come in, after all that was begun before; without it, all that is under way."""

    def fill(self, tokens: mx.array, cache: ModelCache) -> None:
        """Run token ids (B, L) into a cache alone: what evaluating its arrays doesn't need is never computed."""
        self.hidden(tokens, cache)

    def run(
        self,
        tokens: mx.array,
        rope: Rope,
        step: Step | Mask,
        caches: Sequence[Attends | None],
        tap: FeatureTap | None = None,
    ) -> mx.array:
        """Return the normed hidden states (B, L, D); each layer attends by what `caches` has for it."""
        h = self.model.embed_tokens(tokens)
        for index, (layer, cache) in enumerate(zip(self.model.layers, caches, strict=True)):
            if tap is not None:
                tap.gather(index, h)
            h = layer(h, rope, step, cache)
        if tap is not None:
            tap.gather(len(self.model.layers), h)
        return self.model.norm(h)

    def head(self, h: mx.array) -> mx.array:
        """Return logits (..., V) of hidden states (..., D); call it on the positions that are needed, no others."""
        return self.lm_head(h) if "lm_head" in self else self.model.embed_tokens.as_linear(h)

    def token_logits(self, h: mx.array, tokens: Sequence[int]) -> mx.array:
        """Return the logits (..., n) of some tokens by hidden states (..., D); no more rows of the head are read."""
        ids = mx.array(list(tokens), mx.int32)
        if "lm_head" not in self:
            return h @ self.model.embed_tokens(ids).T
        head = self.lm_head
        if not isinstance(head, nn.QuantizedLinear):
            return h @ head.weight[ids].T
        biases, scheme = head.get("biases"), (head.group_size, head.bits)
        rows = mx.dequantize(
            head.weight[ids], head.scales[ids], None if biases is None else biases[ids], *scheme, mode=head.mode
        )
        return h @ rows.T

    def __call__(self, tokens: mx.array, cache: ModelCache | None = None) -> mx.array:
        """Return the logits (B, L, V) of every position."""
        return self.head(self.hidden(tokens, cache))
