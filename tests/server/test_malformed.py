"""Malformed requests get a 4xx in their protocol's shape, and the server goes on."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..support.server_fixtures import Running, running_server
from ..support.server_malformed import CHAT, GOOD, malformed

# Ollama loads the model where there are no messages, and Anthropic's default is no system prompt: both are right.
FINE = ('/api/chat with {"messages": []}',)


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Running]:
    with running_server({"tiny": tiny_folder}, max_body_mb=1.0) as running:
        yield running


def shape_is_right(path: str, body: Any) -> bool:
    """Whether an error body has the shape of the protocol at `path`."""
    if path.startswith("/api/"):
        return set(body) == {"error"} and isinstance(body["error"], str)
    if path.startswith("/v1/messages"):
        return body["type"] == "error" and set(body["error"]) == {"type", "message"}
    return set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}


def test_the_well_formed_requests_that_the_list_is_made_from_are_answered(server: Running) -> None:
    statuses = {path: server.post(path, body).status_code for path, body in GOOD.items()}
    assert set(statuses.values()) == {200}, statuses


def test_every_malformed_request_gets_a_4xx_in_the_right_shape(server: Running) -> None:
    requests = malformed()
    assert len(requests) >= 200
    wrong = []
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name, method, path, headers, body in requests:
            reply = client.request(method, path, headers=headers, content=body)
            if not 400 <= reply.status_code < 500 or not shape_is_right(path, reply.json()):
                wrong.append((name, reply.status_code, reply.text[:200]))
            elif not reply.headers.get("x-request-id"):
                wrong.append((name, reply.status_code, "no request id"))
    assert not wrong, "\n".join(map(str, wrong))
    assert server.post(CHAT, GOOD[CHAT]).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_server_goes_on(server: Running, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as raw:
        answer = b""
        # The server may have hung up before all is sent.
        with contextlib.suppress(OSError):
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            answer = raw.recv(65536)
    assert not answer or b" 4" in answer.split(b"\r\n")[0], answer
    assert server.get("/health").status_code == 200


def test_a_half_closed_or_broken_connection_leaves_nothing_behind(server: Running) -> None:
    import json
    import time

    body = json.dumps({**GOOD[CHAT], "max_tokens": 50_000, "stream": True}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    whole = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    for cut in (10, len(head), len(whole) - 5, len(whole)):
        for half in (True, False):
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as raw:
                raw.sendall(whole[:cut])
                if half:
                    raw.shutdown(socket.SHUT_WR)
    deadline = time.monotonic() + 60
    while any(model["running"] for model in server.get("/status").json()["models"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.post(CHAT, GOOD[CHAT]).status_code == 200
