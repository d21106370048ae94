"""What a training step needs, estimated from the config alone, and the batch and checkpointing that fit."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from ...device import back_end, compute_dtype_name, working_memory_bytes
from ...dtypes import DTYPES
from ...errors import RequestError
from ...model.config import ModelConfig
from ...model.memory_estimate import estimate as estimate_model
from ...model.parameters import expected_tensors
from ...units import size_text
from ..kernels.chunked_loss import chunk_size
from ..layers.targets import choose_full, choose_paths, matches, read_ranks
from ..objectives.supervised import RowShape
from ..settings import RunSettings, TrainSettings

# Float32 arrays that an optimizer keeps for each trained value.
OPTIMIZER_ARRAYS = {"adamw": 2, "lion": 1, "muon": 1, "sgd": 1, "adafactor": 0.1}
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
# Left for the system and other applications where no limit is given.
_SHARE = 0.8


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step by what takes them."""

    weight_bytes: int
    trained_bytes: int
    activation_bytes: int
    passing_bytes: int

    @property
    def total_bytes(self) -> int:
        """The estimate of peak memory."""
        return self.weight_bytes + self.trained_bytes + self.activation_bytes + self.passing_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """What was chosen, and why in words."""

    batch_size: int
    length: int
    accumulate: int
    keep: str
    needs: StepMemory
    notes: tuple[str, ...]


def read_bytes(text: str) -> int:
    """Return the bytes of a size such as 12GB, 800 MB or 0.5g; raises RequestError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?\s*", text, re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not size:
        raise RequestError(f"a size is given as 12GB or 800MB, not {text!r}")
    return round(size)


# Of a model, settings, rows and a kind of checkpointing.
Estimate = Callable[[ModelConfig, Any, RowShape, str], StepMemory]


def step_memory(config: ModelConfig, settings: TrainSettings, shape: RowShape, keep: str) -> StepMemory:
    """Estimate a step over rows of that shape."""
    dtype = compute_dtype_name(config.dtype, settings.dtype)
    size = DTYPES[dtype].size
    weights = estimate_model(config, dtype).weight_bytes
    trained = _trained_values(config, settings)
    tokens = shape.batch_size * shape.length
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    layers = min(settings.layers or config.num_hidden_layers, config.num_hidden_layers)
    whole_block = 4 * D + 3 * q + 2 * kv + 5 * F
    kept = {"none": whole_block, "light": 3 * D + 4 * q + 2 * kv + 2 * F, "full": D}[keep]
    # One block's backward pass, the scores of one block of queries, and one chunk of logits pass through.
    device = back_end()
    block = device.attention_block
    reach = min(shape.length, shape.longest + block)
    scores = 4 * shape.batch_size * config.num_attention_heads * min(block, shape.length) * reach * 4
    backward = tokens * (2 * whole_block if keep == "full" else 3 * F) * size
    head = device.live_loss_chunks * chunk_size(V, shape.length) * V * 4
    unpacked = 0 if device.multiplies_packed or config.quantization is None else (V + F) * D * size
    return StepMemory(
        weight_bytes=weights + unpacked,
        trained_bytes=int(trained * 4 * (3 + OPTIMIZER_ARRAYS[settings.optimizer])),
        activation_bytes=layers * tokens * kept * size,
        passing_bytes=max(scores + backward, head) + tokens * D * size * 3,
    )


def _trained_values(config: ModelConfig, settings: TrainSettings) -> int:
    """Return how many values are trained: low-rank matrices and fully trained modules."""
    shapes = expected_tensors(config)
    full = choose_full(config, settings.modules_to_save)
    targets = choose_paths(config, settings.target_names, settings.layers)
    ranks = read_ranks(settings.rank_for)
    total = sum(prod(shape) for name, shape in shapes.items() if name.rpartition(".")[0] in full)
    for path in targets:
        if path not in full:
            rank = next((r for pattern, r in ranks.items() if matches(pattern, path)), settings.rank)
            total += rank * sum(shapes[f"{path}.weight"])
    return total


def plan_memory(
    config: ModelConfig,
    settings: RunSettings,
    shapes: Sequence[RowShape],
    estimate: Estimate = step_memory,
    levels: Sequence[str] = ("light", "full"),
) -> MemoryPlan:
    """Choose among rows of the given shapes, the requested one first; the others need accumulation to match it.

    `levels` are kinds of checkpointing from fast to small, `estimate` says what a step of one needs.
    Raises RequestError if even the smallest doesn't fit.
    """
    limit = read_bytes(settings.memory) if settings.memory else int(working_memory_bytes() * _SHARE)
    levels = tuple(levels) if settings.checkpointing == "auto" else (settings.checkpointing,)
    if settings.checkpointing == "auto" and shapes and "none" not in levels:
        needs = estimate(config, settings, shapes[0], "none")
        # Keeping everything pays where memory is ample.
        levels = ("none", *levels) if needs.total_bytes < limit / 4 and back_end().compiles_steps else levels
    choices = [(shape, keep) for shape in shapes for keep in levels]
    refused = ""
    for shape, keep in choices:
        needs = estimate(config, settings, shape, keep)
        if needs.total_bytes <= limit:
            times = -(-shapes[0].batch_size // shape.batch_size)
            notes = _notes(needs, limit, _choice(shape, keep, times) + refused)
            return MemoryPlan(shape.batch_size, shape.length, settings.accumulate * times, keep, needs, notes)
        refused = f" ({_choice(shape, keep)} would take {size_text(needs.total_bytes)})"
    raise RequestError(
        f"training needs {size_text(needs.total_bytes)} at least ({size_text(needs.weight_bytes)} of them "
        f"weights) and may take {size_text(limit)}: take a quantized model, fewer --layers or a shorter --max-length"
    )


def _choice(shape: RowShape, keep: str, times: int = 1) -> str:
    accumulated = f", {times} of them a step" if times > 1 else ""
    return f"batches of {shape.batch_size} x {shape.length} tokens{accumulated}, checkpointing {keep}"


def _notes(needs: StepMemory, limit: int, choice: str) -> tuple[str, ...]:
    sizes = {
        "weights": needs.weight_bytes,
        "trained values and optimizer": needs.trained_bytes,
        "kept for the backward pass": needs.activation_bytes,
        "passing": needs.passing_bytes,
    }
    parts = ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items())
    return (
        choice,
        f"memory at most about {size_text(needs.total_bytes)} of {size_text(limit)} ({parts})",
    )
