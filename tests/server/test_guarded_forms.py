"""What says something in another form than text: log-probabilities, escapes in JSON. The guard is a stub."""

import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama3_mlx.server.core.content_guard import unescaped

from ..support.scripted_llama import scripted_server
from ..support.server_fixtures import running_server
from .test_guarded import UNSAFE, StubGuard, streamed_text, stub  # noqa: F401
from .test_moderations import guard_folder  # noqa: F401

HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


def escaped(text: str) -> str:
    """Return a text with every character as JSON may write it; a pair of surrogates beyond U+FFFF."""
    units = text.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def test_escapes_become_the_characters_that_json_means() -> None:
    """The reference is Python's json; what else a backslash may stand before stays as it is."""
    rng = random.Random(3)
    for _ in range(300):
        text = "".join(rng.choices("ab é日😀\u2028", k=rng.randint(1, 8)))
        meant = json.loads('"' + escaped(text) + '"')
        assert unescaped('{"a": "' + escaped(text) + '"}') == '{"a": "' + meant + '"}'
    assert unescaped(r"C:\users \\u0061 \u00") == r"C:\users \\u0061 \u00"
    assert unescaped(r"\ud800\u0061") == "\ufffda"


@pytest.mark.parametrize("every", [1, 20])
def test_escapes_in_an_answer_are_judged_as_what_they_say(
    monkeypatch: pytest.MonkeyPatch,
    stub: StubGuard,  # noqa: F811
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
    every: int,
) -> None:
    front = '{"a": "' + "tea " * 30
    for word in (UNSAFE[0], UNSAFE[0][:3]):
        said = front + escaped(word) + UNSAFE[0][len(word) :] + " " + "then " * 30 + '"}'
        with scripted_server(
            monkeypatch, {"tiny": tiny_folder}, lambda *_, said=said: said, guard=str(guard_folder), guard_every=every
        ) as (server, _):
            for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
                limit = {} if path == "/api/chat" else {"max_tokens": 999}
                for stream in (False, True):
                    text = server.post(path, {**HI, **limit, "stream": stream}).text
                    assert "content_filter" in text or "refusal" in text
                    assert "u0061" not in text
                sent = streamed_text(path, text)
                assert front.startswith(sent) and len(sent) > 20


def test_what_might_have_stood_in_a_place_does_not_leave_a_guarded_server(
    stub: StubGuard,  # noqa: F811
    tiny_folder: Path,
    guard_folder: Path,  # noqa: F811
) -> None:
    """Alternatives are text that nobody has judged; OpenAI's reference has it that there may be fewer."""
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {**HI, "logprobs": True, "top_logprobs": 5}),
        ("/v1/completions", {"model": "tiny", "prompt": "Hi you", "logprobs": 5, "echo": True}),
        ("/api/chat", {**HI, "logprobs": True, "top_logprobs": 5, "stream": False}),
    ]
    limits = {"max_tokens": 4}

    def alternatives(reply: httpx.Response) -> list[Any]:
        body = reply.json()
        if "message" in body:
            return [entry.get("top_logprobs") for entry in body["logprobs"]]
        logprobs = body["choices"][0]["logprobs"]
        return (
            [entry["top_logprobs"] for entry in logprobs["content"]]
            if "content" in logprobs
            else logprobs["top_logprobs"]
        )

    own = {"guard": str(guard_folder)}
    settings: list[dict[str, Any]] = [{}, own, {**own, "guard_on": "input"}]
    for guard in settings:
        with running_server({"tiny": tiny_folder}, max_tokens=4, **guard) as server:
            for path, body in asked:
                reply = server.post(path, {**body, **({} if path == "/api/chat" else limits)})
                found = alternatives(reply)
                assert found, reply.text
                judged = len(guard) == 1
                assert any(found) == (not judged)
                assert ("without alternatives" in reply.headers.get("x-notes", "")) == judged
    body = {**HI, "logprobs": True, "top_logprobs": 5, "stream": True, **limits}
    with running_server({"tiny": tiny_folder}, guard=str(guard_folder)) as server:
        text = server.post("/v1/chat/completions", body).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    entries = [entry for chunk in chunks for entry in (chunk["choices"][0]["logprobs"] or {}).get("content") or []]
    assert len(entries) >= 4 and not any(entry["top_logprobs"] for entry in entries)
