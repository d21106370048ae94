"""What the leader tells the followers to repeat: a few whole numbers for each pass and each change of a KV cache."""

from enum import IntEnum

from ..kv_cache import CacheOptions


class Order(IntEnum):
    """The first number of a message; the others are named here. Caches have numbers, from 1 on."""

    NEW = 1
    """cache, then its options (see `encode_options`): make an empty cache."""
    RUN = 2
    """cache (0: none), B, L, whether the last hidden states are wanted, depths: run the layers on the leader's next
    hidden states; those at the depths (see FeatureTap) go on with them."""
    APPEND = 3
    """cache, other: add the other's only sequence."""
    POP = 4
    """cache, index: remove a sequence."""
    CLEAR = 5
    """cache: remove all sequences."""
    TAKE = 6
    """cache, new, index: copy a sequence into a new cache."""
    COPY = 7
    """cache, new: copy all."""
    TRIM = 8
    """cache, length, index: drop a sequence's later positions."""
    DROP = 9
    """cache: forget it."""
    WEIGH = 10
    """for each row, or one for all, the weight of each adapter, the bits of a float32: apply them to what follows."""
    HEAD = 11
    """n: compute this share of the logits of the leader's next n hidden states."""


def encode_options(options: CacheOptions) -> list[int]:
    """Return cache options as numbers; 0 stands for None."""
    return [options.kv_bits or 0, options.kv_start, options.window or 0, options.sinks]


def decode_options(numbers: list[int]) -> CacheOptions:
    """Return the options that `encode_options` wrote."""
    kv_bits, kv_start, window, sinks = numbers
    return CacheOptions(kv_bits=kv_bits or None, kv_start=kv_start, window=window or None, sinks=sinks)
