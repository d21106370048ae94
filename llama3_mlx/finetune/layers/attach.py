"""Puts trainable layers into a model and takes them out again."""

from collections.abc import Iterable, Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ...errors import RequestError
from ...model.transformer import LlamaForCausalLM
from .dropout import Noise
from .full import make_full
from .lora import Adapted, dense_weight, make_adapted
from .targets import LoRATarget


def attach(
    model: LlamaForCausalLM, targets: Sequence[LoRATarget], *, dropout: float = 0.0, dora: bool = False, seed: int = 0
) -> Noise:
    """Freeze the model, wrap the targets in low-rank layers and return the source of their dropout.

    The first values follow from `seed` alone.
    """
    if any("qkv_proj" in layer.self_attn for layer in model.model.layers):
        raise RequestError("the model's projections are joined for inference: load it with join=False to train it")
    model.freeze()
    modules = dict(model.named_modules())
    noise = Noise()
    mx.random.seed(seed)
    wrapped = []
    order = {path: number for number, path in enumerate(modules)}
    for target in sorted(targets, key=lambda target: order[target.path]):
        source = noise.make_dropout(dropout) if dropout else None
        wrapped.append((target.path, make_adapted(modules[target.path], target.rank, target.scale, source, dora=dora)))
    model.update_modules(tree_unflatten(wrapped))
    return noise


def adapted_layers(model: LlamaForCausalLM) -> list[tuple[str, Adapted]]:
    """Return path and layer of every adapted layer."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, Adapted)]


def unfreeze_full(model: LlamaForCausalLM, paths: Iterable[str]) -> None:
    """Make these layers' own weights trainable, in float32; a quantized one is unpacked, for rounded weights can't be.

    Call it after `attach`, which freezes all.
    """
    modules = dict(model.named_modules())
    for path in paths:
        model.update_modules(tree_unflatten([(path, make_full(modules[path]))]))


def make_dense(module: nn.Module) -> nn.Module:
    """Return an unquantized layer of the same matrix; an unquantized one is returned as it is."""
    if "scales" not in module:
        return module
    weight = dense_weight(module)
    rows, columns = weight.shape
    if isinstance(module, nn.QuantizedEmbedding):
        dense: nn.Module = nn.Embedding(rows, columns)
    else:
        dense = nn.Linear(columns, rows, bias="bias" in module)
        if "bias" in module:
            dense.bias = module.bias
    dense.weight = weight
    return dense


def full_paths(model: LlamaForCausalLM) -> list[str]:
    """Return the paths of the fully trained modules."""
    return [path for path, module in model.named_modules() if "weight" in module.trainable_parameters()]


__all__ = [
    "adapted_layers",
    "attach",
    "make_dense",
    "unfreeze_full",
    "full_paths",
]
