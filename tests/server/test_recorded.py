"""What the clients of docs/clients send: each file of recorded/ says where its requests come from.

Only the model's name, the limits of tokens and long texts were changed.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..support.server_fixtures import Running, running_server

FILES = sorted((Path(__file__).parent / "recorded").glob("*.json"))
PAGES = Path(__file__).parents[2] / "docs" / "clients"
# What is accepted and has no effect here, or is the default; anything else that were ignored would change an answer.
HARMLESS = {"prompt_cache_key", "keep_alive", "options.num_ctx", "think", "n", "messages.tool_calls.type"}
LIMITS = ("max_tokens", "max_completion_tokens")


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Running]:
    with running_server({"llama": tiny_folder}, max_tokens=6) as running:
        yield running


def shortened(body: dict[str, Any]) -> dict[str, Any]:
    """The body with limits that a random model can be waited for."""
    changed = {name: min(body[name], 6) for name in LIMITS if name in body}
    if "options" in body:
        changed["options"] = {**body["options"], "num_predict": 6}
    return {**body, **changed}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_client_sends_is_answered(path: Path, server: Running) -> None:
    recorded = json.loads(path.read_text())
    assert recorded["source"]
    for request in recorded["requests"]:
        if request["method"] == "GET":
            response = server.get(request["path"], headers=request["headers"])
        else:
            response = server.post(request["path"], shortened(request["body"]), headers=request["headers"])
        assert response.status_code == 200, (request["path"], response.text)
        ignored = {name.strip() for name in response.headers.get("x-ignored-parameters", "").split(",") if name.strip()}
        # Ollama's protocol has no such field; "auto" is what it does.
        ignored -= {name for name in ("tool_choice",) if (request["body"] or {}).get(name) == "auto"}
        assert ignored <= HARMLESS
        check(request, response.text)


def check(request: dict[str, Any], text: str) -> None:
    """An answer has the form of its protocol."""
    path, body = request["path"], request["body"] or {}
    if path == "/v1/models":
        assert [model["id"] for model in json.loads(text)["data"]] == ["llama"]
    elif path == "/api/tags":
        assert json.loads(text)["models"][0]["model"].split(":")[0] == "llama"
    elif path == "/api/version":
        # VS Code wants at least 0.6.4.
        assert [int(part) for part in json.loads(text)["version"].split(".")] >= [0, 6, 4]
    elif path == "/api/show":
        facts = json.loads(text)
        architecture = facts["model_info"]["general.architecture"]
        assert facts["model_info"][f"{architecture}.context_length"] > 0
        assert facts["model_info"]["general.basename"]
        assert isinstance(facts["capabilities"], list)
    elif path == "/api/chat":
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    elif path == "/v1/messages":
        events = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
        assert (events[0], events[-1]) == ("message_start", "message_stop")
    elif path == "/v1/chat/completions" and body.get("stream"):
        events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        assert reasons[-1] in ("stop", "length", "tool_calls")
        if "stream_options" in body:
            assert chunks[-1]["usage"]["completion_tokens"] > 0
    elif path == "/v1/chat/completions":
        assert json.loads(text)["choices"][0]["message"]["role"] == "assistant"


def test_every_client_has_a_page_whose_settings_can_be_read() -> None:
    """Of JSON and YAML in the pages, JSON's grammar and PyYAML judge."""
    names = {"vscode" if path.stem in ("vscode-copilot", "continue", "cline") else path.stem for path in FILES}
    assert names <= {path.stem for path in PAGES.glob("*.md")}
    blocks = [
        found
        for path in PAGES.glob("*.md")
        for found in re.findall(r"```(json|yaml)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    ]
    assert len(blocks) >= 7
    assert all(json.loads(text) if kind == "json" else yaml.safe_load(text) for kind, text in blocks)
