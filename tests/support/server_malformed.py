"""Some 200 malformed requests: (name, method, path, headers, body)."""

import json
from collections.abc import Iterator
from typing import Any

JSON = {"content-type": "application/json"}
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBEDDINGS, MESSAGES, TOKENIZE = "/v1/embeddings", "/v1/messages", "/tokenize"
OLLAMA_CHAT, GENERATE, EMBED, SHOW = "/api/chat", "/api/generate", "/api/embed", "/api/show"
TALK: list[Any] = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"messages": TALK, "max_tokens": 1},
    COMPLETIONS: {"prompt": "Hi", "max_tokens": 1},
    RESPONSES: {"input": "Hi", "max_output_tokens": 1},
    EMBEDDINGS: {"input": "Hi"},
    MESSAGES: {"messages": TALK, "max_tokens": 1},
    TOKENIZE: {"prompt": "Hi"},
    OLLAMA_CHAT: {"model": "tiny", "messages": TALK, "options": {"num_predict": 1}},
    GENERATE: {"model": "tiny", "prompt": "Hi", "options": {"num_predict": 1}},
    EMBED: {"model": "tiny", "input": "Hi"},
    SHOW: {"model": "tiny"},
}
Request = tuple[str, str, str, dict[str, str], bytes]


def malformed() -> list[Request]:
    """Return all of them."""
    return [*_broken_bodies(), *_wrong_fields(), *_wrong_messages(), *_wrong_tools(), *_wrong_requests()]


def _broken_bodies() -> Iterator[Request]:
    """Bodies that are no JSON object, for each path."""
    deep = 20_000
    bodies = {
        "no JSON": b"hello",
        "cut off": b'{"messages": [',
        "an array": b"[]",
        "a number": b"1",
        "null": b"null",
        "bad UTF-8": b'{"model": "\xff\xfe"}',
        "deep arrays": b"[" * deep + b"]" * deep,
        "deep objects": b'{"a":' * deep + b"1" + b"}" * deep,
        "NaN": b'{"max_tokens": NaN}',
        "control characters": b'{"model": "\x00"}',
        "nothing": b"",
    }
    for path in (CHAT, COMPLETIONS, RESPONSES, MESSAGES, OLLAMA_CHAT, EMBED):
        for name, body in bodies.items():
            yield f"{name} at {path}", "POST", path, JSON, body


def _wrong_fields() -> Iterator[Request]:
    """Single fields of a wrong type or size."""
    for path in (CHAT, COMPLETIONS):
        fields: dict[str, list[Any]] = {
            "max_tokens": ["1", -2, 1.5, True, [1]],
            "temperature": ["hot", -1, 1e9, [], {}, False],
            "top_p": [2, "1", -0.1],
            "n": [0, -1, "1", 10**9],
            "seed": ["x", 2**70, 1.5],
            "stop": [5, {"a": 1}, [1], [""], ""],
            "stream": ["yes", 1],
            "stream_options": [True, {"include_usage": "x"}],
            "logit_bias": [[1], {"a": "b"}],
            "presence_penalty": [101, "x"],
            "model": [5, "nope", "../x"],
        }
        for field, values in fields.items():
            for value in values:
                yield _post(path, {field: value})
    others: dict[str, dict[str, list[Any]]] = {
        RESPONSES: {"input": [None, 5, [], [{}], {"a": 1}], "max_output_tokens": [0.5, "x"], "top_logprobs": [50]},
        EMBEDDINGS: {"input": [None, [], [[]], 5, "", ["a", 1]], "encoding_format": ["hex"], "dimensions": [1, "x"]},
        MESSAGES: {
            "max_tokens": [None, 0, "x"],
            "system": [5, [{"type": "image"}]],
            "stop_sequences": ["x", [1]],
        },
        GENERATE: {"options": [[], {"temperature": "x"}, {"top_p": 5}, {"seed": 1.5}], "format": ["xml", 5, []]},
        OLLAMA_CHAT: {"messages": ["x", [5], [{}]], "keep_alive": ["soon", []], "stream": ["x"], "model": [5, "nope"]},
        EMBED: {"input": [5, [""], {"a": 1}]},
        SHOW: {"model": [5, "nope", {}]},
        TOKENIZE: {"prompt": [5, None, []], "add_special_tokens": ["x"]},
    }
    for path, fields in others.items():
        for field, values in fields.items():
            for value in values:
                yield _post(path, {field: value})


def _wrong_messages() -> Iterator[Request]:
    """Dialogs that can't be."""
    image = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
    for path in (CHAT, MESSAGES):
        dialogs: list[Any] = [
            None,
            [],
            {},
            "Hi",
            [None],
            ["Hi"],
            [{"role": "user"}],
            [{"content": "Hi"}],
            [{"role": "wizard", "content": "Hi"}],
            [{"role": ["user"], "content": "Hi"}],
            [{"role": "user", "content": 5}],
            [{"role": "user", "content": {"text": "Hi"}}],
            [{"role": "user", "content": [image]}],
            [{"role": "user", "content": ["Hi"]}],
            [{"role": "user", "content": [{"type": "text", "text": 5}]}],
            [{"role": "user", "content": "\ud800"}],
            [{"role": "user", "content": "word " * 140_000}],
        ]
        for messages in dialogs:
            yield _post(path, {"messages": messages})


def _wrong_tools() -> Iterator[Request]:
    """Tools and formats that can't be."""
    call = {"function": {"name": "f", "arguments": "{}"}}
    wrong: list[dict[str, Any]] = [
        {"tools": "x"},
        {"tools": [{}]},
        {"tools": [{"type": "function", "function": {"name": ""}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        {"tool_choice": "always"},
        {"tool_choice": {"type": "function"}},
        {"tool_choice": "required"},
        {"chat_template_kwargs": {"tools": []}},
        {"chat_template_kwargs": {"messages": []}},
        {"chat_template_kwargs": {"self": 1}},
        {"chat_template_kwargs": {"date_string": 5}},
        {"functions": [{"name": "f"}]},
        {"modalities": ["audio"]},
        {"continue_final_message": True},
        {"add_generation_prompt": False},
        {"response_format": "json"},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
        {"logprobs": 5},
        {"top_logprobs": 5},
        {"logprobs": True, "top_logprobs": 50},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [call]}]},
    ]
    for changes in wrong:
        yield _post(CHAT, changes)


def _wrong_requests() -> Iterator[Request]:
    """Methods, paths and headers that fit nothing."""
    body = json.dumps(GOOD[CHAT]).encode()
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        yield f"{method} a chat", method, CHAT, JSON, b"" if method == "GET" else body
    for path in (
        "/v1/nothing",
        "/v2/models",
        "/v1/chat",
        "/api/nothing",
        "/static/nothing.js",
        "/%00",
        "/v1/models/%2e%2e",
    ):
        yield f"GET {path}", "GET", path, {}, b""
    for kind in ("text/plain", "multipart/form-data; boundary=x", "json"):
        yield f"content type {kind!r}", "POST", CHAT, {"content-type": kind}, body
    yield "too large", "POST", CHAT, JSON, b'{"user": "' + b"x" * 2_000_000 + b'"}'
    yield "foreign host", "POST", CHAT, {**JSON, "host": "evil.example"}, body
    yield "foreign origin", "POST", CHAT, {**JSON, "origin": "https://evil.example"}, body


def _post(path: str, changes: dict[str, Any]) -> Request:
    body = json.dumps({**GOOD[path], **changes})
    return f"{path} with {json.dumps(changes)[:80]}", "POST", path, JSON, body.encode()
