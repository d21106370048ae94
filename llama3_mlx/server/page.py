"""The chat page: files of this package, under a policy that lets nothing else in.

Source: https://www.w3.org/TR/CSP3/; https://www.w3.org/TR/trusted-types/.
"""

import gzip
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import PlainTextResponse

from .http.errors import ApiError

STATIC = Path(__file__).resolve().parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "vary": "accept-encoding",
}
_ANEW, _FOR_EVER = "no-cache", "max-age=31536000, immutable"
_VERSION = re.compile(r"v-[0-9a-f]{16}/")
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".webmanifest": "application/manifest+json; charset=utf-8",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
_COMPRESSED = {".png", ".woff2"}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class StaticFile:
    """A file of the page as it is sent."""

    data: bytes
    zipped: bytes | None
    tag: str
    media_type: str


@router.get("/")
@router.head("/")
def page(request: Request) -> Response:
    """Give browsers the page, and Ollama's clients the words that they look for."""
    if "text/html" in request.headers.get("accept", ""):
        return _answer(request, _index(_version()), _ANEW)
    return PlainTextResponse("Ollama is running")


@router.get("/favicon.ico")
def icon(request: Request) -> Response:
    """Give the page's icon."""
    return _answer(request, _file("icon.svg"), _ANEW)


@router.get("/static/{name:path}")
def static(name: str, request: Request) -> Response:
    """Give one of the page's files; under the version that the page names, browsers keep it."""
    version = _VERSION.match(name)
    if version is None:
        return _answer(request, _file(name), _ANEW)
    return _answer(request, _file(name[version.end() :]), _FOR_EVER)


def _file(name: str) -> StaticFile:
    path = (STATIC / name).resolve()
    if path.suffix not in _TYPES or not path.is_relative_to(STATIC) or not path.is_file():
        raise ApiError(404, "there is no such file")
    return _read(path, path.stat().st_mtime_ns)


def _answer(request: Request, file: StaticFile, caching: str) -> Response:
    headers = {**_HEADERS, "cache-control": caching, "etag": file.tag}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if file.zipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.zipped, headers={**headers, "content-encoding": "gzip"}, media_type=file.media_type)
    return Response(file.data, headers=headers, media_type=file.media_type)


@lru_cache(maxsize=256)
def _read(path: Path, changed_ns: int) -> StaticFile:  # noqa: ARG001 - the time renews the entry
    return _as_sent(path.read_bytes(), path.suffix)


def _as_sent(data: bytes, suffix: str) -> StaticFile:
    zipped = None if suffix in _COMPRESSED else gzip.compress(data, mtime=0)
    return StaticFile(data, zipped, f'"{sha256(data).hexdigest()[:24]}"', _TYPES[suffix])


def _version() -> str:
    """Return a hash that changes with any of the page's files."""
    files = sorted(path for path in STATIC.rglob("*") if path.suffix in _TYPES)
    known = [(path.relative_to(STATIC).as_posix(), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    return sha256(repr(known).encode()).hexdigest()[:16]


@lru_cache(maxsize=2)
def _index(version: str) -> StaticFile:
    """Return the page with its files under their version, all modules named so that none waits for another."""
    scripts = sorted(path for path in STATIC.glob("*/*.js"))
    preloads = "".join(
        f'<link rel="modulepreload" href="/static/{path.relative_to(STATIC).as_posix()}">\n' for path in scripts
    )
    text = (STATIC / "index.html").read_text(encoding="utf-8").replace("</head>", f"{preloads}</head>")
    return _as_sent(text.replace('"/static/', f'"/static/v-{version}/').encode(), ".html")
