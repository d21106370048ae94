"""Who may call: Host and Origin checked against DNS rebinding and foreign pages, CORS by list, API key.

Source: Host checks against rebinding as in https://github.com/ollama/ollama (server/routes.go, allowedHostsMiddleware);
CORS: https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from fnmatch import fnmatchcase

from ..settings import ServerSettings
from .errors import ApiError

# What a browser may load before it has a key: the page itself, and the sign of life.
OPEN_PATHS = frozenset({"/", "/health", "/favicon.ico"})
OPEN_FOLDER = "/static/"
_METHODS = "GET, POST, DELETE, HEAD, OPTIONS"
_CORS_AGE_S = "600"
# Top-level names that the public DNS never has, so that no foreign page can be reached by them.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")


class AccessControl:
    """Decides whether a request may go on."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._key = settings.key.encode() if settings.key else None
        self._origins = tuple(origin.rstrip("/").lower() for origin in settings.allow_origin)
        machine = socket.gethostname().lower()
        self._names = frozenset(
            {
                "localhost",
                machine,
                settings.host.lower(),
                *(name.lower() for name in settings.allow_host),
            }
        )

    def check(self, method: str, path: str, headers: Mapping[str, str], http_version: str = "1.1") -> None:
        """Raise ApiError if the request isn't addressed to this server, comes from a foreign page or lacks the key."""
        # A browser always names the host; HTTP/1.0 needn't.
        if http_version != "1.0" or headers.get("host"):
            self._check_host(headers.get("host"))
        self._check_origin(headers.get("origin"), headers.get("host"))
        if self._key and method != "OPTIONS" and not self._is_open(path):
            self._check_key(headers)

    def cors_headers(self, origin: str | None) -> dict[str, str]:
        """Return the headers that let a listed origin read the answer; none for others."""
        if origin is None or not self._is_allowed(origin):
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": "x-request-id, x-ignored-parameters, x-notes, retry-after",
            "vary": "Origin",
        }

    def preflight_headers(self, origin: str | None, requested: str | None) -> dict[str, str]:
        """Return the answer to a preflight of `origin` that requests the header names `requested`."""
        headers = self.cors_headers(origin)
        if headers:
            headers |= {
                "access-control-allow-methods": _METHODS,
                "access-control-allow-headers": requested or "authorization, content-type",
                "access-control-max-age": _CORS_AGE_S,
            }
        return headers

    def _is_allowed(self, origin: str) -> bool:
        """Whether an origin is listed; in the list, `*` stands for any characters."""
        return any(fnmatchcase(origin.lower(), pattern) for pattern in self._origins)

    def _check_host(self, host: str | None) -> None:
        name = _host_name(host or "")
        if name in self._names or name.endswith(_PRIVATE_SUFFIXES):
            return
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            pass
        else:
            # A literal address can't be rebound; a private one is this machine's own, or a container's name for it.
            if address.is_private or address.is_loopback or not self._settings.on_loopback:
                return
        raise ApiError(
            403,
            f"this server doesn't answer to the host name {name[:80]!r}: call it as localhost, or allow the name "
            "with --allow-host",
            code="host_not_allowed",
        )

    def _check_origin(self, origin: str | None, host: str | None) -> None:
        if origin is None or self._is_allowed(origin):
            return
        _, found, rest = origin.partition("://")
        if found and host and rest.lower() == host.lower():
            return
        raise ApiError(
            403,
            f"pages of {origin[:80]!r} may not call this server: allow them with --allow-origin",
            code="origin_not_allowed",
        )

    def _is_open(self, path: str) -> bool:
        return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)

    def _check_key(self, headers: Mapping[str, str]) -> None:
        assert self._key is not None, "checked by the caller"
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), self._key):
            said = "the API key is wrong" if given else "an API key is required: send Authorization: Bearer KEY"
            raise ApiError(401, said, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _host_name(host: str) -> str:
    """Return the name of a Host header without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()
