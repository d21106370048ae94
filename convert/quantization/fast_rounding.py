"""Round-to-nearest (RTN) of equalized weights: MLX's own grid for projections, a fitted one for a tied embedding.

MLX's grid keeps zero exact, which serves projections best. A tied embedding has no norm before it that could take its
channels' scales; there a least-squares grid lost a sixth less (measured on SmolLM2-135M, see docs/quantization.md).
"""

import mlx.core as mx
import numpy as np

from ...model.quantization import Scheme
from .bit_packing import pack_codes
from .grid import fitted_to_range
from .quantizer import Packed, RoundToNearest

# Rows that are fitted at a time: the intermediates are several times their size.
_ROWS = 4096


class EqualizedRoundToNearest(RoundToNearest):
    """The quantizer of `fast`; `fits` names the modules whose grids are fitted by least squares."""

    name = "fast"

    def __init__(self, fits: tuple[str, ...] = ()) -> None:
        self.fits = fits

    def __call__(self, tensor: str, start: int, rows: mx.array, scheme: Scheme) -> Packed:
        """Quantize the rows; they are independent of each other."""
        if tensor not in self.fits or scheme.mode != "affine":
            return super().__call__(tensor, start, rows, scheme)
        parts = [_fitted(rows[at : at + _ROWS], scheme) for at in range(0, rows.shape[0], _ROWS)]
        return tuple(mx.concatenate(list(part)) for part in zip(*parts, strict=True))


def _fitted(rows: mx.array, scheme: Scheme) -> Packed:
    codes, grid = fitted_to_range(rows.astype(mx.float32), scheme, rows.dtype)
    words = mx.array(pack_codes(np.array(codes), scheme.bits))
    return words, grid.scales.astype(rows.dtype), grid.biases.astype(rows.dtype)
