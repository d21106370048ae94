"""Who may call the server, and within which limits."""

import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llama3_mlx.errors import RequestError
from llama3_mlx.server.settings import ServerSettings

from ..support.server_fixtures import Running, running_server

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Running]:
    with running_server({"tiny": tiny_folder}, allow_origin=("https://app.example",), max_body_mb=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tiny_folder: Path) -> Iterator[Running]:
    with running_server({"tiny": tiny_folder}, api_key="sesame") as running:
        yield running


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "mac.local"])
def test_listening_beyond_loopback_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA3_MLX_API_KEY", raising=False)
    with pytest.raises(RequestError, match="API key is required"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, api_key="k").key == "k"
    monkeypatch.setenv("LLAMA3_MLX_API_KEY", "from-environment")
    assert ServerSettings(host=host).key == "from-environment"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST.", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("host.docker.internal:8080", 200),
        ("mac.local", 200),
        ("app.localhost:3000", 200),
        ("192.168.1.1", 200),
        ("172.17.0.1:8080", 200),
        ("8.8.8.8", 403),
        ("internal", 403),
        ("local.evil.example", 403),
        ("", 403),
    ],
)
def test_only_this_machines_names_are_answered_to(server: Running, name: str, status: int) -> None:
    reply = server.get("/v1/models", headers={"host": name})
    assert reply.status_code == status
    if status == 403:
        assert reply.json()["error"]["code"] == "host_not_allowed"


def test_a_client_of_http_1_0_need_not_name_the_host(server: Running) -> None:
    def status(head: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) as raw:
            raw.sendall(head)
            return raw.recv(65536).split(b" ")[1]

    assert status(b"GET /v1/models HTTP/1.0\r\n\r\n") == b"200"
    assert status(b"GET /v1/models HTTP/1.0\r\nHost: evil.example\r\n\r\n") == b"403"
    assert status(b"GET /v1/models HTTP/1.1\r\n\r\n") == b"400"


@pytest.mark.parametrize(
    ("listed", "origin", "status"),
    [
        ("*", "https://any.example", 200),
        ("*", "null", 200),
        ("vscode-webview://*", "vscode-webview://1a2b", 200),
        ("vscode-webview://*", "https://evil.example", 403),
        ("http://localhost:*", "http://localhost:5173", 200),
        ("http://localhost:*", "http://localhost.evil.example", 403),
        ("app://obsidian.md", "app://obsidian.md", 200),
    ],
)
def test_listed_origins_may_have_wildcards(tiny_folder: Path, listed: str, origin: str, status: int) -> None:
    with running_server({"tiny": tiny_folder}, allow_origin=(listed,)) as running:
        reply = running.get("/v1/models", headers={"origin": origin})
    assert reply.status_code == status
    assert reply.headers.get("access-control-allow-origin") == (origin if status == 200 else None)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null", "file://"])
def test_pages_of_other_origins_are_refused(server: Running, origin: str) -> None:
    reply = server.post("/v1/chat/completions", CHAT, headers={"origin": origin})
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


def test_the_own_page_and_listed_origins_may_call(server: Running) -> None:
    assert server.post("/v1/chat/completions", CHAT, headers={"origin": server.url}).status_code == 200
    reply = server.post("/v1/chat/completions", CHAT, headers={"origin": "https://app.example"})
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    asked = {"origin": "https://app.example", "access-control-request-headers": "authorization, x-stainless-os"}
    preflight = httpx.options(f"{server.url}/v1/chat/completions", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    foreign = httpx.options(f"{server.url}/v1/chat/completions", headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic sesame"}, 401),
        ({"authorization": "Bearer  sesame"}, 200),
        ({"authorization": "bearer sesame"}, 200),
        ({"x-api-key": "sesame"}, 200),
        ({"x-api-key": "sesamé".encode()}, 401),
    ],
)
def test_the_key_opens_the_interface(keyed: Running, headers: dict[str, str], status: int) -> None:
    for path in ("/v1/models", "/api/tags", "/metrics", "/status", "/openapi.json", "/nothing"):
        expected = 404 if status == 200 and path == "/nothing" else status
        assert keyed.get(path, headers=headers).status_code == expected, path
    assert keyed.get("/health", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "name", ["../tiny", "/etc/passwd", "tiny/../tiny", "~/x", ".", "..", "tiny:../x", "owner/remote"]
)
def test_model_names_are_no_paths_and_fetch_nothing(server: Running, name: str) -> None:
    for path, body in (("/v1/chat/completions", CHAT), ("/api/chat", CHAT), ("/v1/messages", CHAT)):
        assert server.post(path, {**body, "model": name}).status_code == 404


def test_a_body_past_the_limit_is_refused_by_length_and_by_count(server: Running) -> None:
    big = json.dumps({**CHAT, "user": "x" * 200_000}).encode()
    kind = {"content-type": "application/json"}
    assert httpx.post(f"{server.url}/v1/chat/completions", content=big, headers=kind).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield from (big[i : i + 10_000] for i in range(0, len(big), 10_000))

    assert httpx.post(f"{server.url}/v1/chat/completions", content=chunks(), headers=kind).status_code == 413


def test_compressed_bodies_are_read_within_the_limit(server: Running) -> None:
    def post(body: bytes, encoding: str) -> httpx.Response:
        headers = {"content-type": "application/json", "content-encoding": encoding}
        return httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers, timeout=120)

    plain = json.dumps(CHAT).encode()
    assert post(gzip.compress(plain), "gzip").status_code == 200
    assert post(zlib.compress(plain), "deflate").status_code == 200
    assert post(gzip.compress(json.dumps({**CHAT, "user": "x" * 200_000}).encode()), "gzip").status_code == 413
    assert post(gzip.compress(plain)[:-9], "gzip").status_code == 400
    assert post(plain, "gzip").status_code == 400
    assert post(plain, "br").status_code == 415


def test_curls_way_of_sending_json_is_understood_but_not_from_a_page(server: Running) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    url, body = f"{server.url}/v1/chat/completions", json.dumps(CHAT).encode()
    assert httpx.post(url, content=body, headers=form, timeout=120).status_code == 200
    assert httpx.post(url, content=body, timeout=120).status_code == 200
    listed = {**form, "origin": "https://app.example"}
    assert httpx.post(url, content=body, headers=listed, timeout=120).status_code == 415


def test_head_is_answered_where_health_checks_ask(server: Running) -> None:
    for path in ("/", "/health", "/v1/models", "/api/tags", "/api/version"):
        reply = httpx.head(server.url + path)
        assert (reply.status_code, reply.content) == (200, b""), path


def test_a_slow_body_is_given_up_and_the_server_goes_on(tiny_folder: Path) -> None:
    with running_server({"tiny": tiny_folder}, body_timeout_s=0.5) as running:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=10) as raw:
            raw.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            # Head and body may come in packets of their own; the server closes after them.
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert b"timeout_error" in answer
        assert running.post("/v1/chat/completions", CHAT).status_code == 200


def test_the_queue_has_an_end(tiny_folder: Path) -> None:
    with running_server({"tiny": tiny_folder}, max_running=1, max_queue=1) as running:
        running.post("/v1/chat/completions", CHAT)
        url = f"{running.url}/v1/chat/completions"
        long = {**CHAT, "max_tokens": 100_000, "stream": True}
        with (
            httpx.stream("POST", url, json=long, timeout=60) as first,
            httpx.stream("POST", url, json=long, timeout=60) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            refused = running.post("/v1/chat/completions", CHAT)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
        deadline = time.monotonic() + 60
        while running.post("/v1/chat/completions", CHAT).status_code == 429:
            assert time.monotonic() < deadline, "the slots of clients that went away are not free again"
            time.sleep(0.1)


def test_the_servers_limit_on_answers_needs_no_room_in_the_context(tiny_folder: Path) -> None:
    """A limit above the context ends no request; one below ends those that say nothing, or ask for more."""
    with running_server({"tiny": tiny_folder}, max_tokens=10**7, timeout_s=0.5) as running:
        assert running.post("/v1/chat/completions", {"messages": CHAT["messages"]}).status_code == 200
    with running_server({"tiny": tiny_folder}, max_tokens=3) as running:
        for asked in (None, 5):
            reply = running.post("/v1/completions", {"prompt": "a", "max_tokens": asked})
            assert reply.json()["usage"]["completion_tokens"] == 3


def test_a_request_ends_at_its_time_limit_with_what_it_has(tiny_folder: Path) -> None:
    with running_server({"tiny": tiny_folder}, timeout_s=2.0) as running:
        running.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
        began = time.monotonic()
        reply = running.post("/v1/completions", {"prompt": "a", "max_tokens": 100_000}).json()
        assert time.monotonic() - began < 30
        assert reply["choices"][0]["finish_reason"] == "length"
        assert 0 < reply["usage"]["completion_tokens"] < 100_000


def test_a_client_that_goes_away_frees_its_slot(server: Running) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 100_000}, timeout=1)
    deadline = time.monotonic() + 60
    while (
        any(model["running"] for model in server.get("/status").json()["models"])
        or 'path="/v1/completions",status="499"' not in server.get("/metrics").text
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_prompts_stay_out_of_the_log_unless_asked_for(tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def logged(*, log_prompts: bool = False) -> str:
        caplog.clear()
        with running_server({"tiny": tiny_folder}, log_prompts=log_prompts) as running, caplog.at_level("DEBUG"):
            running.post(
                "/v1/chat/completions", {"messages": [{"role": "user", "content": "Xylophone"}], "max_tokens": 1}
            )
            # The line is written once the answer is out: wait for it before the server goes.
            deadline = time.monotonic() + 60
            while not any("written_tokens" in getattr(record, "values", {}) for record in caplog.records):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        return " ".join(str(record.__dict__) for record in caplog.records)

    quiet = logged()
    assert "/v1/chat/completions" in quiet
    assert "written_tokens" in quiet
    assert "Xylophone" not in quiet
    assert "Xylophone" in logged(log_prompts=True)
