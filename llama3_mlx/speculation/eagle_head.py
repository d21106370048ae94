"""The EAGLE-3 draft head: one decoder layer that drafts from hidden states of the model it drafts for, its target.

Position i reads the target's hidden states there and the token after it, and says which token comes next but one. From
the second drafted token on, the head's own output stands in for the hidden states that the target doesn't have yet.

Parameter paths are those of vllm-project/speculators. Sources: https://arxiv.org/abs/2503.01840, section 3.1;
SafeAILab/EAGLE `eagle/model/cnets.py`; vllm-project/speculators `models/eagle3/model_definitions.py`.
"""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from ..kv_cache import ModelCache, make_cache
from ..kv_cache.step import Step
from ..model.transformer import MLP, Attends, Attention, Rope
from .eagle_config import HeadConfig


class HeadCache(Protocol):
    """A cache of one layer, or what training uses in its place."""

    @property
    def layers(self) -> Sequence[Attends]:
        """What its one layer attends by."""

    def step(self, n_sequences: int, n_new: int) -> Step:
        """Return the positions of `n_new` tokens of each sequence."""

    def advance(self, n_new: int) -> None:
        """Count `n_new` more positions in every sequence."""


class EagleBlock(nn.Module):
    """A decoder layer whose attention reads the normed embedding and the normed feature side by side.

    The residual stream is the feature, as it came or normed as the config says.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        layer = config.layer
        D, eps = layer.hidden_size, layer.rms_norm_eps
        self.norm_before_residual = config.norm_before_residual
        self.self_attn = Attention(layer, n_inputs=2 * D)
        self.mlp = MLP(layer)
        self.input_layernorm = nn.RMSNorm(D, eps=eps)
        self.hidden_norm = nn.RMSNorm(D, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(D, eps=eps)

    def __call__(self, embedded: mx.array, features: mx.array, rope: Rope, cache: HeadCache) -> mx.array:
        normed = self["hidden_norm"](features)
        residual = normed if self.norm_before_residual else features
        both = mx.concatenate([self["input_layernorm"](embedded), normed], axis=-1)
        (layer,), step = cache.layers, cache.step(*embedded.shape[:2])
        h = residual + self["self_attn"](both, rope.for_length(step.last + 1), step, layer)
        return h + self["mlp"](self["post_attention_layernorm"](h))


class EagleHead(nn.Module):
    """A draft head; without an embedding of its own it reads that of its target."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        layer = config.layer
        self.config = config
        if config.own_embedding:
            self.embed_tokens = nn.Embedding(layer.vocab_size, layer.hidden_size)
        width = config.n_features * config.target_hidden_size
        if config.norm_before_fc:
            self.input_norm = nn.RMSNorm(width, eps=layer.rms_norm_eps)
        self.fc = nn.Linear(width, layer.hidden_size, bias=False)
        self.layers = [EagleBlock(config)]
        self.norm = nn.RMSNorm(layer.hidden_size, eps=layer.rms_norm_eps)
        self.lm_head = nn.Linear(layer.hidden_size, config.draft_vocab_size, bias=False)
        self.rope = Rope(layer)
        # Which of the target's tokens each of the reduced vocabulary is; None where that is the whole one.
        self._token_ids: mx.array | None = None

    @property
    def token_ids(self) -> mx.array | None:
        """The target's ids (draft_vocab_size,) of the reduced vocabulary, None where it isn't reduced."""
        return self._token_ids

    def map_tokens(self, ids: mx.array) -> None:
        """Say which of the target's tokens (draft_vocab_size,) those of the reduced vocabulary are."""
        self._token_ids = ids

    def make_cache(self) -> ModelCache:
        """Return an empty cache of its one layer."""
        return make_cache(1, head_dim=self.config.layer.head_dim)

    def fuse(self, states: mx.array) -> mx.array:
        """Return the features (B, L, D) of the target's hidden states (B, L, n D'), side by side by depth."""
        return self["fc"](self["input_norm"](states) if self.config.norm_before_fc else states)

    def __call__(self, embedded: mx.array, features: mx.array, cache: HeadCache) -> mx.array:
        """Return the hidden states (B, L, D), the features of the next step, of embeddings and features (B, L, D)."""
        h = self["layers"][0](embedded, features, self.rope, cache)
        cache.advance(embedded.shape[1])
        return self["norm"](h) if self.config.norm_output else h

    def head(self, h: mx.array) -> mx.array:
        """Return logits (..., draft_vocab_size) of hidden states (..., D)."""
        return self["lm_head"](h if self.config.norm_output else self["norm"](h))

    def over_vocabulary(self, logits: mx.array) -> mx.array:
        """Return logits (B, V) over the target's vocabulary: those (B, draft_vocab_size), and -inf elsewhere."""
        if self._token_ids is None:
            return logits
        full = mx.full((logits.shape[0], self.config.layer.vocab_size), -float("inf"), logits.dtype)
        full[:, self._token_ids] = logits
        return full
