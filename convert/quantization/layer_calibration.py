"""Calibrates one layer: equalizes its channels, then rounds its matrices in order, each compensating those before it.

A matrix W is rounded to the smallest error of W x̂ against the exact W x, where x̂ comes out of the quantized layers so
far and x out of the exact ones: W is first moved towards W + W E[(x - x̂) x̂ᵀ] H⁻¹, and, where its product is added
to the residual stream, towards taking that stream's error out as well.

Source: sequential rounding as in GPTQ, https://arxiv.org/abs/2210.17323, and the least-squares target as in GPTAQ,
https://arxiv.org/abs/2504.02692; going half way, since the moments come from little text, is this project's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ...dtypes import MLX_FLOATS
from ...model.channel_scales import Factors, LayerScales, factors_of, head_columns
from ...model.quantization import Scheme
from ...model.transformer import Rope, TransformerBlock
from .activations import Activations, added, attention_outputs, channel_rms, hidden_outputs, mapped, moments, subtracted
from .equalization import norm_scales, scales_of
from .gptq import Rounded, compensated, inverse_factor

_TENSORS = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.up_proj.bias",
    "mlp.down_proj.weight",
)


@dataclass(frozen=True)
class CalibrationSettings:
    """Numbers of the method; parts of one."""

    damping: float = field(default=0.2, metadata={"help": "added to the inputs' moments, of their mean"})
    correction: float = field(default=0.5, metadata={"help": "of an input's error that is corrected in the weights"})
    residual: float = field(default=0.5, metadata={"help": "of the residual stream's error that is corrected"})
    table: float = field(default=0.3, metadata={"help": "weight of a tied embedding's use as a table"})


@dataclass
class LayerResult:
    """Channel scales, rounded matrices by module name within the layer, and its exact and quantized outputs."""

    scales: LayerScales
    rounded: dict[str, Rounded]
    exact: Activations
    quantized: Activations


class LayerCalibration:
    """Calibrates layers; `stored` names the dtype of scales and norms as safetensors does."""

    def __init__(self, stored: str, settings: CalibrationSettings) -> None:
        self.stored, self.dtype, self.settings = stored, MLX_FLOATS[stored], settings

    def run(
        self,
        block: TransformerBlock,
        rope: Rope,
        schemes: Mapping[str, Scheme],
        exact: Activations,
        rounded: Activations,
        told: Callable[[int], None] = lambda _: None,
    ) -> LayerResult:
        """Calibrate `block` (float32; it is changed in place to what the quantized layer computes).

        `told` is called with the number of matrices that are done.
        """
        attention, mlp = block.self_attn, block.mlp
        results: dict[str, Rounded] = {}
        done: list[str] = []

        attention_in = mapped(block.input_layernorm, exact)
        values_out = attention_outputs(attention, attention_in, rope)
        middle = added(exact, mapped(attention.o_proj, values_out))
        mlp_in = mapped(block.post_attention_layernorm, middle)
        hidden = hidden_outputs(mlp, mlp_in)
        after = added(middle, mapped(mlp.down_proj, hidden))

        scales = self._measured_scales(block, attention_in, values_out, mlp_in, hidden)
        factors = {name: factors_of(name, scales, rope.config) for name in _TENSORS}
        _apply(block, factors)
        attention_in = _divided(attention_in, scales.attention)
        values_out = _divided(values_out, head_columns(scales, rope.config))
        mlp_in, hidden = _divided(mlp_in, scales.mlp), _divided(hidden, scales.hidden)

        def rounds(
            names: tuple[str, ...], inputs: Activations, target: Activations, residual: Activations | None = None
        ) -> None:
            results.update(self._round(block, names, schemes, inputs, target, residual))
            done.extend(names)
            told(len(done))

        inputs = mapped(block.input_layernorm, rounded)
        rounds(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), inputs, attention_in)
        inputs = attention_outputs(attention, inputs, rope)
        rounds(("self_attn.o_proj",), inputs, values_out, subtracted(exact, rounded))
        rounded = added(rounded, mapped(attention.o_proj, inputs))
        inputs = mapped(block.post_attention_layernorm, rounded)
        rounds(("mlp.gate_proj", "mlp.up_proj"), inputs, mlp_in)
        inputs = hidden_outputs(mlp, inputs)
        rounds(("mlp.down_proj",), inputs, hidden, subtracted(middle, rounded))
        return LayerResult(scales, results, after, added(rounded, mapped(mlp.down_proj, inputs)))

    def _measured_scales(
        self,
        block: TransformerBlock,
        attention_in: Activations,
        values_out: Activations,
        mlp_in: Activations,
        hidden: Activations,
    ) -> LayerScales:
        attention = block.self_attn
        heads = np.square(channel_rms(values_out)).reshape(attention.n_kv_heads, -1, attention.head_dim)
        return LayerScales(
            attention=norm_scales(np.array(block.input_layernorm.weight), channel_rms(attention_in), self.stored),
            values=scales_of(np.sqrt(heads.mean(axis=1)).reshape(-1)),
            mlp=norm_scales(np.array(block.post_attention_layernorm.weight), channel_rms(mlp_in), self.stored),
            hidden=scales_of(channel_rms(hidden)),
        )

    def _round(
        self,
        block: TransformerBlock,
        names: tuple[str, ...],
        schemes: Mapping[str, Scheme],
        inputs: Activations,
        target: Activations,
        residual: Activations | None,
    ) -> dict[str, Rounded]:
        """Round the matrices that share `inputs` and set them to their rounded values."""
        factor = inverse_factor(moments(inputs), self.settings.damping)
        input_error = moments(subtracted(target, inputs), inputs)
        residual_error = moments(residual, inputs) if residual is not None else None
        results = {}
        for name in names:
            linear, scheme = _module(block, name), schemes.get(name)
            if scheme is None:
                linear.weight = linear.weight.astype(self.dtype).astype(mx.float32)
            elif scheme.mode != "affine":
                linear.weight = round_to_nearest(linear.weight, scheme, self.dtype)
            else:
                moved = self._moved(np.array(linear.weight), factor, input_error, residual_error)
                results[name] = compensated(mx.array(moved), factor, scheme, self.dtype)
                linear.weight = results[name].dequantized()
            mx.eval(linear.weight)
        return results

    def _moved(
        self, weights: np.ndarray, factor: np.ndarray, input_error: np.ndarray, residual_error: np.ndarray | None
    ) -> np.ndarray:
        """Return the weights (R, C) moved towards the exact products."""
        error = self.settings.correction * (weights @ input_error)
        if residual_error is not None:
            error += self.settings.residual * residual_error
        moved: np.ndarray = weights + (error @ factor.T) @ factor
        return moved


def round_to_nearest(weights: mx.array, scheme: Scheme, dtype: mx.Dtype) -> mx.array:
    """Return the weights (float32) after MLX's own quantization and back."""
    kind = scheme.to_dict()
    return mx.dequantize(*mx.quantize(weights.astype(dtype), **kind), **kind).astype(mx.float32)


def _module(block: TransformerBlock, name: str) -> nn.Linear:
    parent, _, child = name.rpartition(".")
    return block[parent][child]


def _apply(block: TransformerBlock, factors: Mapping[str, Factors]) -> None:
    """Multiply the block's tensors by their factors."""
    tensors = dict(tree_flatten(block.parameters()))
    changed = [(name, mx.array(factors[name].applied(np.array(tensors[name])))) for name in factors if name in tensors]
    block.load_weights(changed, strict=False)


def _divided(activations: Activations, scales: np.ndarray) -> Activations:
    """Return the activations with each channel divided by its scale."""
    inverse = mx.array(1 / scales)
    return mapped(lambda x: x * inverse, activations)
