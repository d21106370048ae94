"""Runs the application on uvicorn until a signal; what is being answered is finished first."""

import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from ..errors import Llama3MLXError
from ..library.catalogue import Catalogue
from .app import make_app
from .http.logs import start_logging
from .settings import ServerSettings

_STOP_S = 30


class ListenError(Llama3MLXError):
    """The address to listen on is unavailable."""


def serve(settings: ServerSettings, models: Mapping[str, Path], adapters: Mapping[str, Path]) -> int:
    """Serve the models until SIGINT or SIGTERM, and return the exit code."""
    catalogue = Catalogue(models, adapters)
    server = make_server(settings, catalogue)
    listening = listen(settings)
    start_logging(settings.log_format)
    shown = listening.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = ", ".join(models or catalogue.models())
    sys.stderr.write(f"llama3-mlx serves {names} on http://{host}:{shown} (Ctrl-C stops it)\n")
    # uvicorn stops on these signals and then raises them once more; being stopped is no failure.
    with _ignored(signal.SIGINT, signal.SIGTERM):
        server.run([listening])
    return 0 if server.started else 1


@contextmanager
def _ignored(*numbers: int) -> Iterator[None]:
    """Ignore signals, and give them back to who had them before."""
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: not set by Python, and not Python's to set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def make_server(settings: ServerSettings, catalogue: Catalogue) -> uvicorn.Server:
    """Return a uvicorn server of the application."""
    config = uvicorn.Config(
        make_app(settings, catalogue),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        http="h11",
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_STOP_S,
        timeout_keep_alive=75,
    )
    return uvicorn.Server(config)


def listen(settings: ServerSettings) -> socket.socket:
    """Return the listening socket; raises ListenError in one line."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends small packets at once only where the protocol is named; else each answer waits 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ListenError(
            f"can't listen on {settings.host} port {settings.port}: {error.strerror}; choose another with --port"
        ) from None
    listening.listen(256)
    return listening
