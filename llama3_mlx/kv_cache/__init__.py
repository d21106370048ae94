"""Key/value caches: what is kept of the positions that were run, for one sequence or for a batch of ragged ones."""

from .model_cache import ModelCache, make_cache
from .options import CacheOptions

__all__ = ["CacheOptions", "ModelCache", "make_cache"]
