"""Runs one of mlx-lm's quantizers on a model, fed with our calibration windows; a process of its own for each.

    python -m benchmarks.quality_peers METHOD MODEL DEST WINDOWS.json

MLX's quantized matrix product has no fast path on the CPU, where it is put in terms of dequantized weights: the same
mathematics, many times faster there, so that the figures are not about that.
"""

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np


def main() -> None:
    """Quantize and save."""
    method, model_folder, dest, windows_file = sys.argv[1:5]
    from mlx_lm.utils import load, save

    mx.random.seed(0)
    np.random.seed(0)
    if mx.default_device().type == mx.DeviceType.cpu:
        mx.quantized_matmul = _by_dequantized  # type: ignore[assignment]
    model, tokenizer, config = load(model_folder, return_config=True)
    data = mx.array(json.loads(Path(windows_file).read_text()))
    model, config = METHODS[method](model, config, data)
    # Scales of 16 bits, as mlx-lm's conversion writes them for 16-bit models and ours for any.
    model.set_dtype(mx.float16)
    with tempfile.TemporaryDirectory() as empty:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (Path(empty) / name).write_bytes((Path(model_folder) / name).read_bytes())
        save(dest, empty, model, tokenizer, config)


def rtn(model: Any, config: Any, _: mx.array, bits: int = 4) -> tuple[Any, Any]:
    """Round to nearest, in groups of 64."""
    from mlx_lm.utils import quantize_model

    model, config = quantize_model(model, config, 64, bits)
    return model, config


def gptq(model: Any, config: Any, data: mx.array, embedding_bits: int = 4) -> tuple[Any, Any]:
    """GPTQ at 4 bits; the embedding, which it rounds to nearest, at `embedding_bits` (its default: 6)."""
    from mlx_lm.quant.gptq import gptq_quantize

    model, quantization = gptq_quantize(model, data, 4, 64, embedding_bits, 64)
    return model, {**config, "quantization": quantization}


def awq(model: Any, config: Any, data: mx.array) -> tuple[Any, Any]:
    """AWQ at 4 bits with its embedding in groups of 32."""
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize, update_config

    awq_quantize(model, data, AWQ_MODEL_CONFIGS[config["model_type"]], bits=4, group_size=64)
    return model, update_config(model, config)


def dwq(model: Any, config: Any, data: mx.array, rate: float = 1e-6) -> tuple[Any, Any]:
    """DWQ from rounding to nearest, one pass over the windows, one at a time."""
    import mlx.optimizers as optimizers
    from mlx_lm.quant.dwq import dwq_quantize

    student, config = rtn(copy.deepcopy(model), config, data)
    rows = [(list(map(int, row)), 0) for row in np.array(data)]
    dwq_quantize(
        student,
        lambda batch, *_, **__: model(batch),
        optimizers.Adam(learning_rate=rate, bias_correction=True),
        rows,
        rows[:2],
        batch_size=1,
        max_seq_length=data.shape[1] + 1,
        seed=0,
        dtype=mx.float32,
    )
    return student, config


def dynamic_quant(model: Any, config: Any, data: mx.array) -> tuple[Any, Any]:
    """4 or 5 bits by sensitivity, 5.0 on average."""
    from mlx_lm.quant.dynamic_quant import estimate_sensitivities, estimate_threshold
    from mlx_lm.utils import quantize_model

    found = dict(estimate_sensitivities(model, data, 4, 64, 5, 64, batch_size=1))
    # Its count of bits would otherwise take scales of 32 bits, which aren't kept.
    model.set_dtype(mx.float16)
    threshold = estimate_threshold(
        model, found, target_bpw=5.0, low_bits=4, low_group_size=64, high_bits=5, high_group_size=64
    )

    def predicate(path: str, module: nn.Module) -> Any:
        if not hasattr(module, "to_quantized"):
            return False
        return {"bits": 5, "group_size": 64} if found[path] > threshold else True

    model, config = quantize_model(model, config, 64, 4, quant_predicate=predicate)
    return model, config


METHODS: dict[str, Callable[[Any, Any, mx.array], tuple[Any, Any]]] = {
    "rtn": rtn,
    "rtn8": lambda model, config, data: rtn(model, config, data, 8),
    "gptq": gptq,
    "gptq6": lambda model, config, data: gptq(model, config, data, 6),
    "awq": awq,
    "dwq": dwq,
    "dwq5": lambda model, config, data: dwq(model, config, data, 1e-5),
    "dynamic_quant": dynamic_quant,
}


def _by_dequantized(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array,
    transpose: bool = True,
    group_size: int = 64,
    bits: int = 4,
    **_: Any,
) -> mx.array:
    codes = mx.dequantize(w, mx.ones(scales.shape), mx.zeros(scales.shape), group_size=group_size, bits=bits).reshape(
        *scales.shape, group_size
    )
    weights = (codes * scales[..., None] + biases[..., None]).reshape(scales.shape[0], -1)
    return x @ (weights.T if transpose else weights)


if __name__ == "__main__":
    main()
