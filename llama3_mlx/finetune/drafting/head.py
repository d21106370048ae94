"""The head that a run trains: its shape, its first values out of its target, and how it is loaded and saved.

The head begins as the last layer of its target behind the highest of the hidden states that it reads, with the rows of
the target's own head: what it has to learn is to look at the next token, whose half of the projections is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ...adapters.adapter_set import load_adapter
from ...checkpoint.loading import load_model
from ...dtypes import DTYPES, config_dtype
from ...library.resolver import resolve_adapter
from ...model.config import ModelConfig
from ...model.transformer import LlamaForCausalLM
from ...model.unpacked import unpack_products
from ...speculation.eagle_config import HeadConfig
from ...speculation.eagle_head import EagleHead
from ...speculation.eagle_loading import load_head
from ...speculation.eagle_saving import save_head
from ..layers.dropout import Noise
from ..layers.lora import dense_weight
from ..objectives.draft import HEAD
from ..settings import DraftSettings
from ..training.job import TextSide


def head_config(target: ModelConfig, n_tokens: int, name: str) -> HeadConfig:
    """Return the shape of a new head: one layer of the target's, with the hidden states that public heads read."""
    layer = replace(
        target,
        num_hidden_layers=1,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        quantization=None,
        channel_scales=None,
    )
    n = target.num_hidden_layers
    # Where these aren't three: what enters the first layer and what leaves the last.
    depths = (2, n // 2, n - 3) if 2 < n // 2 < n - 3 else tuple(sorted({0, n // 2, n}))
    return HeadConfig(layer, n_tokens, target.hidden_size, depths=depths, target=name)


@dataclass(frozen=True)
class HeadProduct:
    """A run that trains a draft head; `start` is the head that training starts from, None for a new one."""

    text: TextSide
    settings: DraftSettings
    config: HeadConfig
    token_ids: Sequence[int]
    start: EagleHead | None = None

    def load(self) -> tuple[LlamaForCausalLM, Noise]:
        """Return the frozen target with the trainable head in it."""
        model = load_model(self.text.folder, dtype=self.settings.dtype, join=False)
        head = self.start or new_head(self.config, model, self.token_ids)
        unpack_products(model)
        if self.settings.adapter:
            load_adapter(model, resolve_adapter(self.settings.adapter))
        model.freeze()
        # In arrays of its own: a compiled step can't have one that is trained and part of the frozen target, too.
        head.apply(lambda array: array.astype(mx.float32) + 0.0 if array.dtype in DTYPES.values() else array)
        head.unfreeze()
        if self.config.own_embedding:
            head.embed_tokens.freeze()
        mx.eval(head.parameters())
        model[HEAD] = head
        return model, Noise()

    def save(self, model: LlamaForCausalLM, folder: Path, base: str) -> None:
        """Write the head in the dtype that its target is stored in."""
        save_head(folder, model[HEAD], DTYPES[config_dtype(self.text.config.dtype) or "float16"])

    def restore(self, model: LlamaForCausalLM, folder: Path) -> None:
        """Put the folder's head into the model."""
        model[HEAD].update(load_head(folder, self.text.config, dtype="float32").parameters())


def new_head(config: HeadConfig, target: LlamaForCausalLM, token_ids: Sequence[int]) -> EagleHead:
    """Return a head whose first values are the target's, whose projections must be apart."""
    head, last = EagleHead(config), target.model.layers[-1]
    block, D = head.layers[0], config.layer.hidden_size
    others = mx.zeros((D, (config.n_features - 1) * D))
    head.fc.weight = mx.concatenate([others, mx.eye(D)], axis=1)
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = _dense(last.self_attn[name])
        block.self_attn[name].weight = mx.concatenate([mx.zeros_like(weight), weight], axis=1)
    block.self_attn.o_proj.weight = _dense(last.self_attn.o_proj)
    for name in ("gate_proj", "up_proj", "down_proj"):
        block.mlp[name].weight = _dense(last.mlp[name])
    block.hidden_norm.weight = last.input_layernorm.weight
    block.post_attention_layernorm.weight = last.post_attention_layernorm.weight
    head.norm.weight = target.model.norm.weight
    rows = target.lm_head if "lm_head" in target else target.model.embed_tokens
    ids = mx.array(list(token_ids), mx.int32)
    head.lm_head.weight = _dense(rows)[ids]
    if len(token_ids) < config.layer.vocab_size:
        head.map_tokens(ids)
    return head


def _dense(module: nn.Module) -> mx.array:
    return dense_weight(module).astype(mx.float32)
