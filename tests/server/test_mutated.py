"""Requests of real clients, changed at a few places by chance: each gets an answer or a 4xx, in all three protocols.

test_fuzz.py invents requests from the OpenAPI document; these begin with what clients send.
"""

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..support.server_fixtures import Running, running_server
from .test_recorded import shortened

RECORDED = Path(__file__).parent / "recorded"
# Of the protocols whose clients send little variety, requests with every field that matters.
OWN: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/messages",
        {
            "model": "llama",
            "max_tokens": 4,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"a": 1}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "rain"}]},
            ],
            "tools": [
                {"name": "weather", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
            ],
            "tool_choice": {"type": "auto"},
            "stop_sequences": ["x"],
            "temperature": 0.5,
        },
    ),
    (
        "/v1/responses",
        {
            "model": "llama",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            "max_output_tokens": 4,
            "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "integer"}}},
            "store": False,
        },
    ),
    ("/v1/completions", {"model": "llama", "prompt": ["a", "b"], "max_tokens": 4, "logprobs": 2, "echo": True, "n": 2}),
    (
        "/api/generate",
        {"model": "llama", "prompt": "Hi", "options": {"num_predict": 4, "stop": ["x"], "seed": 1}, "format": "json"},
    ),
    ("/api/embed", {"model": "llama", "input": ["a", "b"]}),
    ("/v1/messages/count_tokens", {"model": "llama", "messages": [{"role": "user", "content": "Hi"}]}),
]
VALUES: list[Any] = [
    None, True, -1, 0, 3, 1e308, 2**63, -0.5, "", "x" * 3000, "\ud800", "\u0000", [], {}, [None], [[]], {"type": "x"},
    {"": {"": []}}, [1, "a", None, {}], "auto", {"type": "text", "text": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Running]:
    with running_server({"llama": tiny_folder}, max_tokens=4, timeout_s=5.0) as running:
        yield running


def originals() -> list[tuple[str, dict[str, Any]]]:
    recorded = [json.loads(path.read_text())["requests"] for path in sorted(RECORDED.glob("*.json"))]
    posts = [request for requests in recorded for request in requests if request["method"] == "POST"]
    return [*((request["path"], shortened(request["body"])) for request in posts), *OWN]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a value with each of its keys."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def mutated(body: dict[str, Any], rng: random.Random) -> bytes:
    """Return a body with one to three changes: a value, a key, a member more or less; now and then broken bytes."""
    changed = json.loads(json.dumps(body))
    for _ in range(rng.randint(1, 3)):
        found = list(places(changed))
        if not found:
            break
        holder, key = rng.choice(found)
        kind = rng.random()
        if kind < 0.6:
            holder[key] = rng.choice(VALUES)
        elif kind < 0.75:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(["type", "role", "content", "n", "format", key + "x"])] = holder[key]
        else:
            holder.append(holder[key])
    data = json.dumps(changed).encode()
    if rng.random() < 0.05:
        at = rng.randrange(len(data))
        data = rng.choice([data[:at], data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]])
    return data


def test_no_changed_request_is_answered_with_a_server_error(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(20)
    statuses: dict[int, int] = {}
    wrong = []
    with httpx.Client(base_url=server.url, timeout=60) as client, caplog.at_level(logging.ERROR):
        for path, body in originals() * 6:
            data = mutated(body, rng)
            reply = client.post(path, content=data, headers={"content-type": "application/json"})
            statuses[reply.status_code] = statuses.get(reply.status_code, 0) + 1
            if reply.status_code != 200 and not 400 <= reply.status_code < 500:
                wrong.append((path, data[:1000], reply.status_code, reply.text[:300]))
    assert not wrong, "\n".join(map(str, wrong))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert statuses[200] > 10 and statuses[400] > 10, statuses
    assert client.is_closed and server.get("/health").status_code == 200
