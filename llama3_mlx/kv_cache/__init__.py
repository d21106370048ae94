"""KV caches: keys and values of the positions that were run, for one sequence or a batch of different lengths."""

from .model_cache import ModelCache, make_cache
from .options import CacheOptions

__all__ = ["CacheOptions", "ModelCache", "make_cache"]
