"""How long prompt and answer may be: what the context and the memory leave, and the numbers where they don't."""

from collections.abc import Sequence

from ..errors import ContextLengthError, MemoryLimitError, RequestError
from ..units import size_text


def check_fits(prompt: Sequence[int], context: int) -> None:
    """Raise where a prompt after which nothing is generated is empty or doesn't fit the context."""
    if len(prompt) != context:
        check_length(prompt, 0, context)


def check_length(prompt: Sequence[int], max_tokens: int | None, context: int) -> int:
    """Return how many tokens may be generated; raises where prompt and answer can't fit the context."""
    if not prompt:
        raise RequestError("the prompt is empty: give at least one token")
    room = context - len(prompt)
    if room < 1:
        raise ContextLengthError(f"the prompt has {len(prompt)} tokens, but the model's context is {context}")
    if max_tokens is not None and max_tokens > room:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens and max_tokens is {max_tokens}, "
            f"but the model's context is {context}: ask for at most {room}"
        )
    return room if max_tokens is None else max_tokens


def check_memory(prompt: Sequence[int], max_tokens: int | None, limit: int, memory_bytes: int, per_token: float) -> int:
    """Return how many of `limit` tokens memory leaves room for; raises MemoryLimitError with the numbers.

    An answer without `max_tokens` ends where the memory does; one that was requested is possible as a whole or refused.
    """
    room = int(memory_bytes / per_token) - len(prompt)
    if room >= limit:
        return limit
    if room < 1 or max_tokens is not None:
        requested = f" and max_tokens is {max_tokens}" if max_tokens is not None else ""
        needed = (len(prompt) + (max_tokens or 1)) * per_token
        raise MemoryLimitError(
            f"the prompt has {len(prompt)} tokens{requested}: their KV cache takes {size_text(needed)}, "
            f"but {size_text(memory_bytes)} are left beside the model: "
            + (f"ask for at most {room} tokens, or " if room > 0 else "")
            + "quantize the cache (kv_bits=8) or use a window"
        )
    return room
