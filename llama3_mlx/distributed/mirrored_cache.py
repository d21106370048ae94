"""The leader's KV caches: whatever is done to one is done to the followers' parts of it, too."""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from ..kv_cache import CacheOptions, ModelCache
from .orders import Order, decode_options, encode_options


class Mirror:
    """Numbers the leader's caches and sends orders about them."""

    def __init__(self, send: Callable[[Sequence[int]], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        # Caches that Python has freed, in whatever thread: told with the next order.
        self._dropped: deque[int] = deque()

    def order(self, order: Order, *numbers: int) -> None:
        """Send an order; raises PeerError if a follower is gone."""
        while self._dropped:
            self._send([Order.DROP, self._dropped.popleft()])
        self._send([order, *numbers])

    def cache(self, plain: ModelCache) -> "MirroredCache":
        """Return a cache with the content of `plain`, under a new number."""
        made = MirroredCache(plain, self, next(self._numbers))
        weakref.finalize(made, self._dropped.append, made.number)
        return made

    def new(self, plain: ModelCache) -> "MirroredCache":
        """Return an empty cache, which the followers make, too."""
        made = self.cache(plain)
        self.order(Order.NEW, made.number, *encode_options(plain.options))
        return made


class MirroredCache(ModelCache):
    """A cache that sends an order with every change."""

    def __init__(self, plain: ModelCache, mirror: Mirror, number: int) -> None:
        """Take over the layers of `plain`."""
        super().__init__(plain.layers, plain.options)
        self.lengths = plain.lengths
        self._mirror, self.number = mirror, number

    def trim(self, length: int, index: int = 0) -> None:
        """Drop the positions of a sequence from `length` on."""
        self._mirror.order(Order.TRIM, self.number, length, index)
        super().trim(length, index)

    def append(self, other: ModelCache) -> None:
        """Add the only sequence of another mirrored cache."""
        assert isinstance(other, MirroredCache), "the followers have no part of a cache that isn't mirrored"
        self._mirror.order(Order.APPEND, self.number, other.number)
        super().append(other)

    def pop(self, index: int) -> None:
        """Remove a sequence; the last one moves into its row."""
        self._mirror.order(Order.POP, self.number, index)
        plain = self._plain()
        plain.pop(index)
        self.lengths = plain.lengths

    def clear(self) -> None:
        """Remove all sequences and free their memory."""
        self._mirror.order(Order.CLEAR, self.number)
        super().clear()

    def take(self, index: int) -> "MirroredCache":
        """Return a copy of one sequence."""
        made = self._mirror.cache(self._plain().take(index))
        self._mirror.order(Order.TAKE, self.number, made.number, index)
        return made

    def copy(self) -> "MirroredCache":
        """Return an independent cache of the same content."""
        made = self._mirror.cache(self._plain().copy())
        self._mirror.order(Order.COPY, self.number, made.number)
        return made

    def _plain(self) -> ModelCache:
        """Return a cache of the same arrays whose changes send no orders."""
        plain = ModelCache(self.layers, self.options)
        plain.lengths = self.lengths
        return plain


def repeat(
    order: Sequence[int], caches: dict[int, ModelCache], make_cache: Callable[[CacheOptions], ModelCache]
) -> None:
    """Do to a follower's caches what the leader did to its own; passes aside."""
    kind, number, *rest = order
    match kind:
        case Order.NEW:
            caches[number] = make_cache(decode_options(list(rest)))
        case Order.APPEND:
            caches[number].append(caches[rest[0]])
        case Order.POP:
            caches[number].pop(rest[0])
        case Order.CLEAR:
            caches[number].clear()
        case Order.TAKE:
            caches[rest[0]] = caches[number].take(rest[1])
        case Order.COPY:
            caches[rest[0]] = caches[number].copy()
        case Order.TRIM:
            caches[number].trim(rest[0], rest[1])
        case Order.DROP:
            caches.pop(number, None)
        case _:
            raise ValueError(f"the order {kind} isn't known")
