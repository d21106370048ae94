"""Responses that a later request may go on from: kept in memory, the oldest forgotten first."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..http.errors import ApiError

_BYTES = 64_000_000


@dataclass(frozen=True)
class Stored:
    """A response object, and the dialog that led to it with its answer at the end."""

    response: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]


class ResponseStore:
    """Responses by id, up to a size in bytes."""

    def __init__(self, limit_bytes: int = _BYTES) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._size = 0

    def put(self, stored: Stored) -> None:
        """Keep a response."""
        size = len(json.dumps([stored.response, *stored.messages], default=str))
        self._entries[stored.response["id"]] = (stored, size)
        self._size += size
        while self._size > self._limit and len(self._entries) > 1:
            self._size -= self._entries.popitem(last=False)[1][1]

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

    def remove(self, response_id: str) -> None:
        """Forget a response; raises ApiError 404."""
        self.get(response_id)
        self._size -= self._entries.pop(response_id)[1]
