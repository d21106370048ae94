"""How an engine runs, and what it has done so far."""

from dataclasses import dataclass, field

from ..kv_cache import CacheOptions


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How an engine runs. `memory_bytes` bounds the KV cache of all sequences and the prefix cache together."""

    memory_bytes: int
    bytes_per_token: float
    prefix_bytes: int
    stop_ids: frozenset[int]
    max_sequences: int = 32
    max_chunk: int = 2048
    """Tokens of a prompt that are run at once, at most."""
    cache: CacheOptions = field(default_factory=CacheOptions)
    xtc_exempt_ids: frozenset[int] = frozenset()
    """Tokens that XTC never excludes: those that end a line or the text."""


@dataclass
class Counts:
    """What an engine has done so far."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    preempted: int = 0
    """Times that a sequence was preempted for older ones, to be recomputed later."""
