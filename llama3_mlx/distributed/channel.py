"""What two processes say to each other over TCP: small arrays of whole numbers, JSON objects, and signs of life.

A frame is its kind (1 byte), its length (4 bytes, little-endian) and its content: int32 numbers, or UTF-8 JSON. Nothing
that is received is ever run as code.
"""

import json
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from ..errors import PeerError
from ..json_types import JsonObject

Message = JsonObject | list[int]
_BEAT, _OBJECT, _NUMBERS = range(3)
_HEADER = struct.Struct("<BI")
_MAX_BYTES = 2**24
# Of this many signs of life, all may be lost but one before a peer counts as stalled.
_BEATS = 5


class Channel:
    """A connection to one other process, read by a thread of its own.

    `lost` is called once, in that thread, with what happened, when the peer closes the connection or is silent for
    `deadline_s`, in whatever state the rest of this process is.
    """

    def __init__(self, connection: socket.socket, deadline_s: float, lost: Callable[[str], None]) -> None:
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection, self._deadline_s, self._lost = connection, deadline_s, lost
        self._inbox: queue.SimpleQueue[Message | PeerError] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), threading.Event()
        connection.settimeout(deadline_s / _BEATS)
        for work, name in ((self._read, "read"), (self._beat, "beat")):
            threading.Thread(target=work, name=f"llama3-mlx channel {name}", daemon=True).start()

    def send(self, message: JsonObject | Sequence[int]) -> None:
        """Send an object or numbers; raises PeerError if the connection is gone."""
        if isinstance(message, dict):
            self._send(_OBJECT, json.dumps(message).encode())
        else:
            self._send(_NUMBERS, np.asarray(message, "<i4").tobytes())

    def receive(self, timeout_s: float | None = None) -> Message:
        """Return the next message; raises PeerError when there won't be one, or none comes in time."""
        try:
            message = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise PeerError(f"no answer within {timeout_s:g} s") from None
        if isinstance(message, PeerError):
            self._inbox.put(message)
            raise message
        return message

    @property
    def is_closed(self) -> bool:
        """Whether nothing more comes, because either side has ended it."""
        return self._closed.is_set()

    def last_words(self) -> str | None:
        """Return the error that the peer told before it was gone, if it did and nobody has received it."""
        words = None
        while not self._inbox.empty():
            message = self._inbox.get()
            if isinstance(message, dict) and "error" in message:
                words = str(message["error"])
            elif isinstance(message, PeerError):
                self._inbox.put(message)
                break
        return words

    def close(self) -> None:
        """End the connection; the peer notices it, and `lost` isn't called for it here."""
        self._closed.set()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _send(self, kind: int, content: bytes) -> None:
        try:
            with self._lock:
                self._connection.sendall(_HEADER.pack(kind, len(content)) + content)
        except OSError as error:
            raise PeerError(f"the connection is gone: {error.strerror or error}") from None

    def _read(self) -> None:
        try:
            while True:
                kind, length = _HEADER.unpack(self._exactly(_HEADER.size))
                if length > _MAX_BYTES or kind not in (_BEAT, _OBJECT, _NUMBERS):
                    raise PeerError("it sends what isn't ours: another program, or another version")
                content = self._exactly(length)
                if kind == _OBJECT:
                    self._inbox.put(json.loads(content))
                elif kind == _NUMBERS:
                    self._inbox.put(np.frombuffer(content, "<i4").tolist())
        except (PeerError, OSError, ValueError) as error:
            reason = str(error) if isinstance(error, PeerError) else "its process has ended"
            was_closed = self._closed.is_set()
            self._closed.set()
            self._inbox.put(PeerError(reason))
            if not was_closed:
                self._connection.close()
                self._lost(reason)

    def _exactly(self, n: int) -> bytes:
        """Read n bytes; raises PeerError at the end of the stream or after a silence."""
        parts, silent_s = bytearray(), 0.0
        while len(parts) < n:
            began = time.monotonic()
            try:
                part = self._connection.recv(n - len(parts))
            except TimeoutError:
                # Not the time by the clock: this process may have been suspended together with the other.
                silent_s += min(time.monotonic() - began, 2 * self._deadline_s / _BEATS)
                if silent_s >= self._deadline_s:
                    raise PeerError(f"it has been silent for {self._deadline_s:g} s") from None
                continue
            if not part:
                raise PeerError("its process has ended")
            silent_s = 0.0
            parts += part
        return bytes(parts)

    def _beat(self) -> None:
        while not self._closed.wait(self._deadline_s / _BEATS):
            with suppress(PeerError):
                self._send(_BEAT, b"")
