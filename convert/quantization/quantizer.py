"""Turns rows of weights into packed words, scales and biases."""

from typing import Protocol

import mlx.core as mx

from ...model.quantization import Scheme

Packed = tuple[mx.array, ...]


class Quantizer(Protocol):
    """Quantizes the rows of one matrix; a matrix may come in several blocks of rows."""

    name: str

    def __call__(self, tensor: str, start: int, rows: mx.array, scheme: Scheme) -> Packed:
        """Return packed weight, scales and, in affine mode, biases of rows (R, C) that begin at row `start`."""


class RoundToNearest:
    """Round-to-nearest (RTN), MLX's own: scale and bias of a group span its smallest and largest weight."""

    name = "round-to-nearest"

    def __call__(self, tensor: str, start: int, rows: mx.array, scheme: Scheme) -> Packed:
        """Quantize the rows; they are independent of each other."""
        return tuple(mx.quantize(rows, group_size=scheme.group_size, bits=scheme.bits, mode=scheme.mode))
