"""A local server that speaks the part of the Hub's protocol that downloads use, with a switch for each failure.

Source of the protocol: huggingface_hub `hf_api.py` and `file_download.py`.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves folders as repositories; notes which files were fetched and from which byte."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.fetched: list[tuple[str, int]] = []
        # Breaks the connection once after this many bytes of the named file.
        self.break_once: dict[str, int] = {}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET or HEAD."""
        path = request.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/([^/]+))?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(/.*)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or tree or file
        if not match or match[1] not in self.repositories:
            self._error(request, 404, "RepoNotFound", "Repository not found")
        elif match[1] in self.gated and not (api and not match[3]):
            self._error(request, 403, "GatedRepo", "Access to model is restricted")
        elif (revision := match[3] if api else match[2]) not in (None, "main", COMMIT):
            self._error(request, 404, "RevisionNotFound", f"No revision {revision}")
        elif file:
            self._file(request, match[1], match[3])
        elif tree:
            self._json(request, [{"type": "file", **entry} for entry in self._files(match[1])])
        else:
            names = [{"rfilename": entry["path"], "size": entry["size"]} for entry in self._files(match[1])]
            self._json(request, {"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": names, "tags": []})

    def _files(self, repo: str) -> list[dict[str, Any]]:
        root = self.repositories[repo]
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return [
            {"path": str(path.relative_to(root)), "size": path.stat().st_size, "oid": _digest(path)} for path in paths
        ]

    def _file(self, request: BaseHTTPRequestHandler, repo: str, name: str) -> None:
        path = self.repositories[repo] / name
        if not path.is_file():
            self._error(request, 404, "EntryNotFound", "Entry not found")
            return
        data = path.read_bytes()
        asked = re.match(r"bytes=(\d+)-", request.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        request.send_response(206 if asked else 200)
        request.send_header("ETag", f'"{_digest(path)}"')
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Accept-Ranges", "bytes")
        if asked:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if request.command == "HEAD":
            return
        self.fetched.append((name, start))
        broken = self.break_once.pop(name, None)
        request.wfile.write(data[start : len(data) if broken is None else start + broken])
        if broken is not None:
            request.close_connection = True

    def _json(self, request: BaseHTTPRequestHandler, value: Any) -> None:
        data = json.dumps(value).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def _error(self, request: BaseHTTPRequestHandler, code: int, kind: str, message: str) -> None:
        request.send_response(code)
        request.send_header("X-Error-Code", kind)
        request.send_header("X-Error-Message", message)
        request.send_header("Content-Length", "0")
        request.end_headers()


@contextmanager
def running_hub() -> Iterator[tuple[FakeHub, str]]:
    """Run a fake Hub on a free port of this machine; yields it and its address."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
