"""What a training step of a draft head needs, estimated from the configs alone."""

from collections.abc import Callable
from math import prod

from ...device import back_end, compute_dtype_name
from ...dtypes import DTYPES
from ...model.config import ModelConfig
from ...model.memory_estimate import estimate
from ...speculation.eagle_config import HeadConfig
from ...speculation.eagle_loading import head_tensors
from ..kernels.chunked_loss import chunk_size
from ..objectives.supervised import RowShape
from ..settings import DraftSettings
from ..training.memory_plan import OPTIMIZER_ARRAYS, StepMemory

_FLOAT32 = 4


def head_memory(head: HeadConfig) -> Callable[[ModelConfig, DraftSettings, RowShape, str], StepMemory]:
    """Return the estimate of a step over rows of a shape, for a head of that shape."""

    def needs(config: ModelConfig, settings: DraftSettings, shape: RowShape, keep: str) -> StepMemory:
        dtype = compute_dtype_name(config.dtype, settings.dtype)
        size, device = DTYPES[dtype].size, back_end()
        trained = sum(prod(tensor) for tensor in head_tensors(head).values())
        tokens = shape.batch_size * shape.length
        unpacked = (
            0
            if device.multiplies_packed or config.quantization is None
            else ((config.vocab_size + config.intermediate_size) * config.hidden_size * size)
        )
        layer = head.layer
        D, F, n = layer.hidden_size, layer.intermediate_size, head.draft_vocab_size
        q, kv = layer.num_attention_heads * layer.head_dim, layer.num_key_value_heads * layer.head_dim
        block = 8 * D + 3 * q + 2 * kv + 5 * F
        kept = {"none": block, "full": 3 * D + 2 * kv}[keep]
        # What the target says of every position, and chunks of its logits and the head's.
        teaching = tokens * n * _FLOAT32
        chunk = chunk_size(config.vocab_size, shape.length)
        logits = device.live_loss_chunks * chunk * (config.vocab_size + n) * _FLOAT32
        target = tokens * (3 * config.hidden_size + 3 * config.intermediate_size) * size
        scores = 4 * shape.batch_size * config.num_attention_heads * min(device.attention_block, shape.length)
        scores *= min(shape.length, shape.longest + device.attention_block) * _FLOAT32
        backward = 2 * tokens * block * _FLOAT32
        return StepMemory(
            weight_bytes=estimate(config, dtype).weight_bytes + unpacked,
            trained_bytes=int(trained * _FLOAT32 * (3 + OPTIMIZER_ARRAYS[settings.optimizer])),
            activation_bytes=settings.draft_steps * tokens * kept * _FLOAT32
            + tokens * (head.n_features + 1) * config.hidden_size * _FLOAT32,
            passing_bytes=teaching + max(logits, target + scores, backward + scores),
        )

    return needs
