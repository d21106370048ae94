"""What a user should hear about a conversion that works but may not be what they want."""

from math import prod

from ..model.quantization import AFFINE_BITS, Scheme
from .options import ConversionOptions
from .sources.source import Source
from .targets.folder import lossy_kinds

# A result this many times its source's bits per weight is worth a word.
_GROWTH = 1.2


def conversion_hints(source: Source, bits_per_weight: float, options: ConversionOptions) -> list[str]:
    """Return a note where a quantized source became larger without anybody having chosen that."""
    chosen = options.quantizes or options.dequantize or options.dtype or options.gguf_type or options.to == "hf"
    refs = list(source.tensors())
    if chosen or not lossy_kinds(refs):
        return []
    values = sum(prod(ref.shape) for ref in refs)
    stored = sum(ref.nbytes for ref in refs) * 8 / values
    if bits_per_weight < _GROWTH * stored:
        return []
    near = min(AFFINE_BITS, key=lambda bits: abs(Scheme(bits=bits, group_size=64).bits_per_weight - stored))
    return [
        f"the source has {stored:.1f} bits per weight and the result {bits_per_weight:.1f}: --bits {near} keeps it "
        "about as small"
    ]
