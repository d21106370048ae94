"""What a user should hear about a conversion that works but may not be what they want."""

from math import prod

from ..model.quantization import AFFINE_BITS, AFFINE_GROUP_SIZES
from .options import ConversionOptions
from .sources.source import FLOAT_DTYPES, Source, TensorRef
from .targets.folder import lossy_kinds

# A result this many times its source's bits per weight is worth a word.
_GROWTH = 1.2


def conversion_hints(source: Source, bits_per_weight: float, options: ConversionOptions) -> list[str]:
    """Return a note where a quantized source became larger without anybody having chosen that."""
    chosen = options.quantizes or options.dequantize or options.dtype or options.gguf_type or options.to == "hf"
    refs = list(source.tensors())
    if chosen or not lossy_kinds(refs):
        return []
    stored = _bits_per_weight(refs)
    if bits_per_weight < _GROWTH * stored:
        return []
    # A source's own codes can be kept where MLX's groups are as long as its own.
    quantized = [ref for ref in refs if ref.stored not in FLOAT_DTYPES]
    sizes = {ref.group_size for ref in quantized if ref.group_size in AFFINE_GROUP_SIZES}
    bits = max((bits for bits in AFFINE_BITS if bits <= _bits_per_weight(quantized)), default=min(AFFINE_BITS))
    flags = f"--bits {bits}" + (f" --group-size {sizes.pop()}" if len(sizes) == 1 and 64 not in sizes else "")
    return [
        f"the source has {stored:.1f} bits per weight and the result {bits_per_weight:.1f}: {flags} keeps it about "
        "as small"
    ]


def _bits_per_weight(refs: list[TensorRef]) -> float:
    return sum(ref.nbytes for ref in refs) * 8 / sum(prod(ref.shape) for ref in refs)
