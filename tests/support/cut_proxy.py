"""A TCP proxy that can be cut: to a client, a server that is killed and comes back on its port."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class CutProxy:
    """Listens on a port of its own and passes everything on to a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self._open: set[socket.socket] = set()
        self._listener = self._listen(0)
        self._port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.restore()

    def cut(self) -> None:
        """Break all connections off and refuse new ones."""
        _close(self._listener)
        for end in list(self._open):
            _close(end)

    def restore(self) -> None:
        """Accept connections (again)."""
        if self._listener.fileno() < 0:
            self._listener = self._listen(self._port)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                server = socket.create_connection(self._target)
                self._open |= {client, server}
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            _close(end)
            self._open.discard(end)


def _close(end: socket.socket) -> None:
    # Another thread that waits in it is woken by the shutdown alone.
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def cut_proxy(url: str) -> Iterator[CutProxy]:
    """Run a proxy before the server at `url`."""
    proxy = CutProxy(url)
    try:
        yield proxy
    finally:
        proxy.cut()
