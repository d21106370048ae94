"""The page's files as they are sent: their policy, their weight, their versions, the libraries and their licenses."""

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llama3_mlx.server.page import STATIC

from ...support.page_driver import ONE_WIDTH, Driver, PageServer

ROOT = Path(__file__).parents[3]
HTML = {"accept": "text/html"}
MAX_BYTES = 600_000


@pytest.fixture
def get(page_server: PageServer) -> Iterator["Get"]:
    with httpx.Client(base_url=page_server.url) as client:
        yield Get(client)


class Get:
    """GET from the server, not followed."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __call__(self, path: str, **headers: str) -> httpx.Response:
        return self._client.get(path, headers=headers)


def test_the_policy_is_strict_and_every_named_file_is_there(get: Get) -> None:
    home = get("/", **HTML)
    policy = home.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"unsafe|data:|https?:|\*", policy)
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", home.text), "nothing is inline"
    names = re.findall(r'(?:src|href)="(/[^"]+)"', home.text)
    assert len(names) > 40
    assert {get(name).status_code for name in names} == {200}
    assert get("/").text == "Ollama is running"
    for path in ("/static/..%2Fpage.py", "/static/../page.py", "/static//etc/passwd", "/static/vendor", "/static/x.js"):
        assert get(path).status_code == 404


def test_files_are_kept_under_their_version_and_asked_for_anew_without_one(get: Get) -> None:
    address = re.search(r'src="(/static/v-[^"]+app.js)"', get("/", **HTML).text)
    assert address is not None
    kept, anew = get(address[1]), get("/static/app.js")
    assert "immutable" in kept.headers["cache-control"]
    assert anew.headers["cache-control"] == "no-cache"
    assert anew.content == kept.content == (STATIC / "app.js").read_bytes()
    assert kept.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in get("/static/app.js", **{"accept-encoding": "identity"}).headers
    again = get("/static/app.js", **{"if-none-match": anew.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@ONE_WIDTH
def test_the_page_with_formulas_and_code_is_light(chat: Driver) -> None:
    """Measured by the browser: what came over the wire, headers included."""
    chat.says("All", "$\\mathcal{A}_\\mathbf{b} \\sum \\mathfrak{g} \\mathtt{t}$\n\n```js\nlet a = 1;\n```")
    chat.ask("All")
    chat.page.wait_for_selector(".katex")
    chat.page.wait_for_selector(".hljs-keyword")
    chat.page.wait_for_load_state("networkidle")
    sizes = chat.page.evaluate(
        """() => [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")]
            .map(({ name, transferSize }) => [name, transferSize])"""
    )
    static = {name: size for name, size in sizes if "/static/" in name or name.rstrip("/").count("/") == 2}
    assert any("KaTeX" in name for name in static)
    assert sum(static.values()) < MAX_BYTES
    # Whatever else may be loaded, too; but for PDF.js, which comes with the first PDF that is added.
    assert not any("/pdf/" in name for name in static)
    others = [path for path in STATIC.rglob("*") if path.is_file() and path.parent.name != "pdf"]
    assert sum(len(gzip.compress(path.read_bytes())) for path in others) < MAX_BYTES


def test_modules_are_small() -> None:
    own = [path for path in STATIC.rglob("*.js") if "vendor" not in path.parts]
    assert [path.name for path in own if len(path.read_text().splitlines()) > 250] == []


def test_the_libraries_are_as_they_were_released_and_their_licenses_are_named() -> None:
    checked = subprocess.run([sys.executable, ROOT / "scripts/vendor", "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    notice = (ROOT / "NOTICE").read_text()
    for entry in json.loads((STATIC / "vendor/manifest.json").read_text()):
        assert f"{entry['name']} {entry['version']}" in notice
        assert any(path.endswith("LICENSE") for path in entry["files"])


def test_the_page_can_be_installed(get: Get) -> None:
    """As Chromium requires: a name, a start page, a display mode, icons of 192 and 512 pixels."""
    manifest = get("/static/page.webmanifest")
    assert manifest.headers["content-type"].startswith("application/manifest+json")
    values = manifest.json()
    assert (values["start_url"], values["display"]) == ("/", "standalone")
    for icon in values["icons"][:2]:
        data = get(icon["src"]).content
        width = int.from_bytes(data[16:20])
        assert icon["sizes"] == f"{width}x{width}"
