"""A source's own grid is kept: the gguf package's quantizers and MLX's own make the grids, and give their values."""

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from llama3_mlx.convert.quantization.quantizer import RoundToNearest
from llama3_mlx.convert.quantization.repacking import Repacking
from llama3_mlx.model.quantization import Scheme
from llama3_mlx.trees import scalar

KINDS = [(Kind.Q4_0, 4), (Kind.Q4_1, 4), (Kind.Q5_0, 5), (Kind.Q5_1, 5), (Kind.Q8_0, 8)]
WEIGHTS = np.random.default_rng(0).normal(size=(48, 256)).astype(np.float32)


def distance(quantizer: RoundToNearest, rows: mx.array, scheme: Scheme) -> float:
    """Return the largest error over the root mean square of the rows."""
    weight, scales, biases = quantizer("w", 0, rows, scheme)
    values = mx.dequantize(weight, scales, biases, scheme.group_size, scheme.bits)
    return scalar(mx.abs(values - rows).max() / mx.sqrt(mx.square(rows).mean()))


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_the_blocks_of_gguf_are_kept_within_the_rounding_of_their_scales(kind: Kind, bits: int) -> None:
    rows = mx.array(dequantize(quantize(WEIGHTS, kind), kind))
    scheme = Scheme(bits, 32)
    assert distance(Repacking(), rows, scheme) < 1e-5
    if kind != Kind.Q8_0:
        assert distance(RoundToNearest(), rows, scheme) > 1e-3


def test_it_knows_the_share_of_the_groups_that_are_kept() -> None:
    """Half of the rows lie on the grid of Q4_0's blocks; noise lies on none."""
    quantizer, scheme = Repacking(), Scheme(4, 32)
    on_grid, off_grid = mx.array(dequantize(quantize(WEIGHTS, Kind.Q4_0), Kind.Q4_0)), mx.array(WEIGHTS)
    quantizer("w", 0, on_grid, scheme)
    assert quantizer.kept == 1
    quantizer("w", len(WEIGHTS), off_grid, scheme)
    assert quantizer.kept == 0.5


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_weights_that_mlx_quantized_are_kept(bits: int) -> None:
    scheme = Scheme(bits, 64)
    rows = mx.dequantize(*mx.quantize(mx.array(WEIGHTS), 64, bits), 64, bits)
    assert distance(Repacking(), rows, scheme) < 1e-5


def test_it_is_never_worse_than_round_to_nearest_and_leaves_other_modes_to_it() -> None:
    rows = mx.array(WEIGHTS)
    for scheme in (Scheme(4, 64), Scheme(2, 32), Scheme(5, 128)):
        errors = []
        for quantizer in (Repacking(), RoundToNearest()):
            weight, scales, biases = quantizer("w", 0, rows, scheme)
            values = mx.dequantize(weight, scales, biases, scheme.group_size, scheme.bits)
            errors.append(scalar(mx.square(values - rows).sum()))
        assert errors[0] <= errors[1] * (1 + 1e-6)
    scheme = Scheme(4, 32, "mxfp4")
    for one, other in zip(Repacking()("w", 0, rows, scheme), RoundToNearest()("w", 0, rows, scheme), strict=True):
        assert mx.array_equal(one, other)


def test_a_group_of_one_value_is_kept() -> None:
    rows = mx.zeros((2, 64)) + mx.array([[0.0], [0.5]])
    weight, scales, biases = Repacking()("w", 0, rows, Scheme(4, 32))
    assert mx.array_equal(mx.dequantize(weight, scales, biases, 32, 4), rows)
