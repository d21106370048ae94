"""The chat page: files of our own, nothing from elsewhere, under a policy that lets nothing else in.

Source: https://www.w3.org/TR/CSP3/.
"""

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, PlainTextResponse

from .http.errors import ApiError

STATIC = Path(__file__).parent / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.head("/")
def page(request: Request) -> Response:
    """Give browsers the page, and Ollama's clients the words that they look for."""
    if "text/html" in request.headers.get("accept", ""):
        return _file(STATIC / "index.html")
    return PlainTextResponse("Ollama is running")


@router.get("/favicon.ico")
def icon() -> Response:
    """Give the page's icon."""
    return _file(STATIC / "icon.svg")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Give one of the page's files."""
    files = {path.name: path for path in STATIC.iterdir() if path.suffix in _TYPES}
    if name not in files:
        raise ApiError(404, "there is no such file")
    return _file(files[name])


def _file(path: Path) -> Response:
    return FileResponse(path, headers=_HEADERS, media_type=f"{_TYPES[path.suffix]}; charset=utf-8")
