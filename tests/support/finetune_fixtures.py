"""Small models and examples that the fine-tuning tests share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from llama3_mlx.finetune.data.encoding import Example
from llama3_mlx.finetune.layers.attach import attach
from llama3_mlx.finetune.layers.targets import BLOCK_LINEARS, choose_paths, make_targets
from llama3_mlx.finetune.objectives.supervised import Supervised
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.trees import flatten

from .transformers_reference import our_model, reference_model, small_config

VOCABULARY = 320
# Settings of a run that takes seconds with a tiny model.
SHORT_RUN: dict[str, Any] = {
    "rank": 2, "layers": 1, "steps": 8, "learning_rate": 1e-2, "max_length": 64, "row_length": 64, "batch_size": 1,
    "dropout": 0.1, "save_every": 1, "samples": 0, "report": False,
}  # fmt: skip


def write_lines(path: Path, values: Sequence[Any]) -> Path:
    """Write values as JSON lines and return the path."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def small_model(**changes: Any) -> LlamaForCausalLM:
    """A random float32 model of 320 tokens."""
    return our_model(reference_model(small_config(**changes)))


def adapted_model(
    model: LlamaForCausalLM, *, rank: int = 4, alpha: float = 8.0, names: Sequence[str] = BLOCK_LINEARS, **options: Any
) -> LlamaForCausalLM:
    """The model with trainable layers whose B is not zero, so that every gradient matters."""
    attach(model, make_targets(choose_paths(model.config, names, None), rank, alpha, {}, rslora=False), **options)
    rng = np.random.default_rng(1)
    for name, array in flatten(model.trainable_parameters()):
        if name.endswith("lora_b"):
            model.update(nested(name, mx.array(rng.normal(0, 0.1, array.shape).astype(np.float32))))
    model.train()
    return model


def value(array: mx.array) -> float:
    """The value of a scalar array."""
    return float(np.array(array))


def furthest(one: mx.array, other: mx.array) -> float:
    """The largest difference of two arrays."""
    return value(mx.abs(one - other).max())


def nested(name: str, array: mx.array) -> Any:
    """The tree that holds one array at a dotted name."""
    from mlx.utils import tree_unflatten

    return tree_unflatten([(name, array)])


def random_examples(
    n: int, low: int = 5, high: int = 60, seed: int = 0, share: float = 0.5, vocabulary: int = VOCABULARY
) -> list[Example]:
    """Examples of random tokens whose last `share` is learned."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        length = int(rng.integers(low, high))
        trained = np.arange(length) >= int(length * (1 - share))
        made.append(Example(rng.integers(0, vocabulary, length).astype(np.int32), trained, f"example {i}"))
    return made


def objective(examples: Sequence[Example], valid: Sequence[Example] = (), **options: Any) -> Supervised:
    """Supervised learning of the examples in rows of 128."""
    values: dict[str, Any] = {"batch_size": 2, "vocab_size": VOCABULARY, "row": 128}
    return Supervised(examples, valid, **{**values, **options})


def loss_and_gradients(
    model: LlamaForCausalLM, made: Supervised, index: int = 0
) -> tuple[float, dict[str, np.ndarray]]:
    """The summed loss of a batch and the gradients of all trained parameters."""
    arrays = {name: mx.array(array) for name, array in made.batch(index).arrays.items()}

    def loss(params: Any) -> mx.array:
        model.update(params)
        return made.loss(model, arrays)[0]

    params = model.trainable_parameters()
    total, grads = mx.value_and_grad(loss)(params)
    model.update(params)
    return value(total), {name: np.array(grad) for name, grad in flatten(grads)}
