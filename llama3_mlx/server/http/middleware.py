"""The outermost layer: request id, who may call, body limits, CORS, the error shapes, the log line, the counts."""

import logging
import secrets
import time
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import ServerSettings
from .body import check_body, decoded, read_body, replay
from .errors import ApiError, error_response
from .logs import log
from .metrics import Metrics
from .security import AccessControl

_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")


class ServerMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, settings: ServerSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._access = AccessControl(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass on what isn't one."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _Exchange(self, scope, receive, send).run()

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Check the request and have it answered; what is refused gets the error of its protocol."""
        method, path, headers = scope["method"], scope["path"], Headers(scope=scope)
        try:
            self._access.check(method, path, headers, scope.get("http_version", "1.1"))
            if method == "OPTIONS":
                await self._preflight(headers, send)
                return
            if method in _WITH_BODY:
                receive = await self._checked_body(scope, receive, headers)
        except ApiError as error:
            await error_response(path, error, request_id)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def cors_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the CORS headers that the answer to a request needs."""
        return self._access.cors_headers(headers.get("origin"))

    async def _preflight(self, headers: Mapping[str, str], send: Send) -> None:
        allowed = self._access.preflight_headers(headers.get("origin"), headers.get("access-control-request-headers"))
        raw = [(name.encode(), value.encode()) for name, value in allowed.items()]
        await send({"type": "http.response.start", "status": 204, "headers": raw})
        await send({"type": "http.response.body", "body": b""})

    async def _checked_body(self, scope: Scope, receive: Receive, headers: Mapping[str, str]) -> Receive:
        body = await read_body(receive, headers, self._settings)
        if body and "content-encoding" in headers:
            body = decoded(body, headers["content-encoding"], int(self._settings.max_body_mb * 1e6))
            _set_header(scope, b"content-encoding", None)
        if body:
            _require_json(scope, headers)
            check_body(body, self._settings.max_depth)
        return replay(body, receive)

    def done(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        """Count and log an answered request."""
        route = scope.get("route")
        path = getattr(route, "path", None) or "other"
        self._metrics.requests.add(path=path, status=str(status))
        self._metrics.duration.observe(seconds)
        quiet = scope["path"] in ("/health", "/metrics") and status < 400
        log(
            "request",
            level=logging.DEBUG if quiet else logging.INFO,
            id=request_id,
            method=scope["method"],
            path=path if path != "other" else scope["path"][:200],
            status=status,
            seconds=round(seconds, 4),
            **scope.get("state", {}).get("log", {}),
        )


class _Exchange:
    """One request on its way: adds headers to the answer and remembers its status."""

    def __init__(self, middleware: ServerMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self.middleware, self.scope, self.receive, self._send = middleware, scope, receive, send
        self.id = f"req_{secrets.token_hex(12)}"
        self.status = 499
        scope["state"] = {**scope.get("state", {}), "request_id": self.id, "log": {}, "began": time.perf_counter()}

    async def run(self) -> None:
        try:
            await self.middleware.answer(self.scope, self.receive, self.send, self.id)
        finally:
            seconds = time.perf_counter() - self.scope["state"]["began"]
            self.middleware.done(self.scope, self.status, seconds, self.id)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            headers["x-content-type-options"] = "nosniff"
            for name, value in self.middleware.cors_headers(Headers(scope=self.scope)).items():
                headers[name] = value
        await self._send(message)


# What is sent without saying so, and what curl's -d says of all bodies.
_UNDECLARED = ("", "application/x-www-form-urlencoded")


def _require_json(scope: Scope, headers: Mapping[str, str]) -> None:
    """Refuse a body that isn't declared JSON, unless its client is known not to declare it: curl, and all of Ollama's.

    A page can send a form to any server without asking first, but then its browser names the page's origin.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        return
    if not scope["path"].startswith("/api/") and (kind not in _UNDECLARED or "origin" in headers):
        raise ApiError(415, f"the content type must be application/json, not {kind[:80]!r}")
    _set_header(scope, b"content-type", b"application/json")


def _set_header(scope: Scope, name: bytes, value: bytes | None) -> None:
    """Set a header of a request; None removes it."""
    others = [(known, text) for known, text in scope["headers"] if known != name]
    scope["headers"] = others if value is None else [*others, (name, value)]
