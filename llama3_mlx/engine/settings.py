"""How an engine runs, and what it has done so far."""

from dataclasses import dataclass, field

from ..kv_cache import CacheOptions


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How an engine runs. `memory_bytes` is what keys and values may take together, prefixes included."""

    memory_bytes: int
    bytes_per_token: float
    prefix_bytes: int
    stop_ids: frozenset[int]
    max_sequences: int = 32
    cache: CacheOptions = field(default_factory=CacheOptions)


@dataclass
class Counts:
    """What an engine has done so far."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    preempted: int = 0
    """Times that an answer had to make room for older ones; it went on later."""
