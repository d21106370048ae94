"""Responses that a later request may continue: kept in memory, the oldest forgotten first."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ...json_types import JsonMapping
from ..http.errors import ApiError

_BYTES = 64_000_000
Item = JsonMapping


@dataclass(frozen=True)
class Stored:
    """A response object, the input items of its request, and the dialog that led to it with its answer at the end."""

    response: JsonMapping
    messages: Sequence[JsonMapping]
    input_items: Sequence[Item] = ()

    @property
    def items(self) -> list[Item]:
        """All items, those of the input first."""
        return [*self.input_items, *self.response["output"]]


class ResponseStore:
    """Responses by id, up to a size in bytes."""

    def __init__(self, limit_bytes: int = _BYTES) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._items: dict[str, Item] = {}
        self._size = 0

    def put(self, stored: Stored) -> None:
        """Keep a response."""
        size = len(json.dumps([stored.response, *stored.messages, *stored.input_items], default=str))
        self._entries[stored.response["id"]] = (stored, size)
        self._items |= {item["id"]: item for item in stored.items if item.get("id")}
        self._size += size
        while self._size > self._limit and len(self._entries) > 1:
            self.remove(next(iter(self._entries)))

    def get(self, response_id: str) -> Stored:
        """Return a response; raises ApiError 404."""
        entry = self._entries.get(response_id)
        if entry is None:
            raise ApiError(
                404,
                f"there is no response {response_id[:80]!r}: it was not stored, or is forgotten by now",
                param="previous_response_id",
                code="response_not_found",
            )
        return entry[0]

    def item(self, item_id: str) -> Item:
        """Return an item of a stored response by its id; raises ApiError 404."""
        if item_id not in self._items:
            raise ApiError(
                404,
                f"there is no item {item_id[:80]!r}: its response was not stored, or is forgotten by now; send the "
                "item itself, or have its response stored",
                param="input",
                code="item_not_found",
            )
        return self._items[item_id]

    def remove(self, response_id: str) -> None:
        """Forget a response; raises ApiError 404."""
        stored = self.get(response_id)
        self._size -= self._entries.pop(response_id)[1]
        for item in stored.items:
            self._items.pop(item.get("id") or "", None)
