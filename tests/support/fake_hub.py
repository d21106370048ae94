"""A local server that speaks the part of the Hub's protocol that downloads and uploads use, with switches for failures.

Source of the protocol: huggingface_hub `hf_api.py`, `file_download.py`, `_commit_api.py` and `lfs.py`.
"""

import base64
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
        # Answers everything about a repository with this status.
        self.failing: dict[str, int] = {}
        # Sends this many bytes of the named file, then nothing more while the server runs.
        self.stalled: dict[str, int] = {}
        self.stopping = threading.Event()
        self.fetched: list[tuple[str, int]] = []
        # Breaks the connection once after this many bytes of the named file.
        self.break_once: dict[str, int] = {}
        # What was uploaded: the files of each repository. Writing needs the token; nobody may write to the locked ones.
        self.uploaded: dict[str, dict[str, bytes]] = {}
        self.token = "hf_write"
        self.locked: set[str] = set()
        self._objects: dict[str, bytes] = {}

    def accept(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a POST or PUT: what an upload takes."""
        path = request.path.partition("?")[0]
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        address = f"http://{request.headers['Host']}"
        if (put := re.fullmatch(r"/objects/([0-9a-f]{64})", path)) and request.command == "PUT":
            self._objects[put[1]] = body
            self._json(request, {})
            return
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            self._error(request, 401, "Unauthorized", "Invalid username or password.")
            return
        match = re.search(r"/([^/]+/[^/]+?)(\.git/info/lfs/objects/batch|/(preupload|commit)/main)\Z", path)
        repo = match[1] if match else ""
        if repo in self.locked:
            self._error(request, 403, "Forbidden", "You don't have the rights to create a model under this namespace")
        elif path == "/api/repos/create":
            values = json.loads(body)
            name = "/".join(part for part in (values.get("organization"), values["name"]) if part)
            self.uploaded.setdefault(name, {})
            self._json(request, {"url": f"{address}/{name}", "id": name, "name": name})
        elif path == "/api/validate-yaml":
            self._json(request, {"errors": [], "warnings": []})
        elif match and match[3] == "preupload":
            files = [entry["path"] for entry in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith((".safetensors", ".gguf")) else "regular" for name in files}
            told = [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in files]
            self._json(request, {"files": told})
        elif match and match[3] == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.uploaded[repo][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.uploaded[repo][value["path"]] = self._objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del self.uploaded[repo][value["path"]]
            self._json(request, {"commitUrl": f"{address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})
        elif match:
            actions = [
                {
                    "oid": entry["oid"],
                    "size": entry["size"],
                    "actions": {"upload": {"href": f"{address}/objects/{oid}"}},
                }
                for entry in json.loads(body)["objects"]
                if (oid := entry["oid"])
            ]
            self._json(request, {"transfer": "basic", "objects": actions})
        else:
            self._error(request, 404, "RepoNotFound", path)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET or HEAD."""
        path = request.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/([^/]+))?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(/.*)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or tree or file
        if path == "/api/whoami-v2":
            if request.headers.get("Authorization") == f"Bearer {self.token}":
                self._json(request, {"name": "owner", "type": "user", "orgs": []})
            else:
                self._error(request, 401, "Unauthorized", "Invalid username or password.")
            return
        if match and match[1] in self.failing:
            self._error(request, self.failing[match[1]], "", "no")
        elif tree and match and match[1] in self.uploaded:
            held = self.uploaded[match[1]].items()
            self._json(request, [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in held])
        elif not match or match[1] not in self.repositories:
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
        if name in self.stalled:
            request.wfile.write(data[start : start + self.stalled[name]])
            request.wfile.flush()
            self.stopping.wait()
            request.close_connection = True
            return
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

        def do_POST(self) -> None:
            hub.accept(self)

        do_PUT = do_POST

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        hub.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join(60)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
