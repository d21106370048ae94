"""The model's head as a function of its trained parameters, for the chunked losses."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ...model.transformer import LlamaForCausalLM

Head = Callable[[Any, mx.array], mx.array]


def head_of(model: LlamaForCausalLM) -> tuple[Head, Any]:
    """Return the head and its trained parameters; an empty tree if it is frozen, as it mostly is."""
    if "lm_head" in model:
        layer = model.lm_head

        def own(parameters: Any, h: mx.array) -> mx.array:
            layer.update(parameters)
            return layer(h)

        return own, layer.trainable_parameters()
    embedding = model.model.embed_tokens

    def tied(parameters: Any, h: mx.array) -> mx.array:
        embedding.update(parameters)
        return embedding.as_linear(h)

    return tied, embedding.trainable_parameters()
