"""A running server as the chat command sees a model: the same calls, the text over HTTP."""

import http.client
import json
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ..errors import Llama3MLXError, RequestError
from ..generation.completion import DraftCounts
from ..generation.options import GenerationOptions
from ..json_types import JsonMapping
from ..server.settings import API_KEY_VARIABLE
from ..settings import settings_of
from .flags import Values

URL_VARIABLE = "LLAMA3_MLX_URL"
DEFAULT_URL = "http://127.0.0.1:8080"


class ServerError(Llama3MLXError):
    """The server refused a request, or broke off."""


@dataclass(frozen=True)
class RemoteCompletion:
    """What a server says about an answer; of its tokens it gives the number alone."""

    text: str
    token_ids: Sequence[int] = ()
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_tokens_per_second: float = 0.0
    tokens_per_second: float = 0.0
    peak_memory_bytes: int = 0
    passes: int = 0
    drafts: Sequence[DraftCounts] = ()
    passes_off: int = 0


@dataclass(frozen=True)
class RemotePiece:
    """New text."""

    text: str


class RemoteStream:
    """Pieces of an answer as the server sends them."""

    def __init__(self, pieces: Generator[RemotePiece, None, RemoteCompletion]) -> None:
        self._pieces = pieces
        self._texts: list[str] = []
        self._completion: RemoteCompletion | None = None

    def __iter__(self) -> "RemoteStream":
        return self

    def __next__(self) -> RemotePiece:
        try:
            piece = next(self._pieces)
        except StopIteration as end:
            self._completion = end.value
            raise StopIteration from None
        self._texts.append(piece.text)
        return piece

    def close(self) -> None:
        """Break off: the server ends the answer."""
        self._pieces.close()

    @property
    def completion(self) -> RemoteCompletion:
        """The completion, or what there is of it."""
        return self._completion or RemoteCompletion("".join(self._texts))


class RemoteLlama:
    """A model of a server."""

    def __init__(self, url: str, model: str | None) -> None:
        self.url, self.model = url, model
        self.folder = model or ""

    def stream_chat(
        self,
        messages: Sequence[JsonMapping],
        *,
        progress: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> RemoteStream:
        """Ask for an answer, piece by piece."""
        return RemoteStream(_pieces(self.url, request_body(self.model, messages, settings)))

    def run_tools(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: functions run where the model is loaded."""
        raise RequestError("a server can't run functions of yours: use llama3-mlx chat, which loads the model itself")


def request_body(model: str | None, messages: Sequence[JsonMapping], settings: JsonMapping) -> Values:
    """Return the chat request for an answer with settings by their names in GenerationOptions."""
    body: Values = {"model": model, "messages": list(messages), "stream": True}
    body["stream_options"] = {"include_usage": True}
    for name, value in settings.items():
        declared = settings_of(GenerationOptions)[name]
        if isinstance(declared.request, str):
            outer, _, inner = declared.request.partition(".")
            body[outer] = {**body.get(outer, {}), inner: value} if inner else value
        else:
            body[name] = value
    return body


def server_models(url: str) -> list[str] | None:
    """Return the names of the models of the server at `url`, None if none of ours runs there."""
    connection = _connect(url, timeout=2.0)
    try:
        connection.request("GET", "/v1/models", headers=_headers())
        response = connection.getresponse()
        body = json.loads(response.read())
        if response.status != 200:
            return None
        return [entry["id"] for entry in body["data"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()


def loaded_models(url: str) -> list[Values]:
    """Return what Ollama's protocol says of the models in the server's memory; raises ServerError without a server."""
    connection = _connect(url, timeout=2.0)
    try:
        connection.request("GET", "/api/ps", headers=_headers())
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise ServerError(_message(body))
        models: list[Values] = json.loads(body)["models"]
        return models
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        raise ServerError(f"no server answers at {url}: start one with llama3-mlx serve") from None
    finally:
        connection.close()


def server_url() -> str:
    """Return where the server is looked for."""
    return os.environ.get(URL_VARIABLE) or DEFAULT_URL


def _pieces(url: str, body: JsonMapping) -> Generator[RemotePiece, None, RemoteCompletion]:
    connection = _connect(url, timeout=None)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), _headers())
        response = connection.getresponse()
        if response.status != 200:
            raise ServerError(_message(response.read()))
        return (yield from _read(response))
    except ConnectionRefusedError:
        raise ServerError(f"no server answers at {url} any more: start it and send the message again") from None
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise ServerError(f"the server at {url} broke off the answer ({error}): send the message again") from None
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> Generator[RemotePiece, None, RemoteCompletion]:
    texts: list[str] = []
    reason, usage, ended = "stop", Values(), False
    for raw in response:
        line = raw.decode("utf-8").strip()
        ended = ended or line == "data: [DONE]"
        if not line.startswith("data: ") or ended:
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise ServerError(chunk["error"]["message"])
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            # A guarded server says why it gives no answer, or no more of it.
            text = choice["delta"].get("content") or choice["delta"].get("refusal")
            if text:
                texts.append(text)
                yield RemotePiece(text)
    if not ended:
        raise http.client.HTTPException("the connection ended")
    details = usage.get("prompt_tokens_details") or {}
    return RemoteCompletion(
        text="".join(texts),
        token_ids=range(usage.get("completion_tokens", 0)),
        finish_reason=reason,
        prompt_tokens=usage.get("prompt_tokens", 0),
        cached_tokens=details.get("cached_tokens", 0),
    )


def _connect(url: str, timeout: float | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    if not parts.hostname or parts.scheme not in ("http", "https"):
        raise ServerError(f"{url!r} is no address of a server: write http://HOST:PORT")
    return kind(parts.hostname, parts.port, timeout=timeout)


def _headers() -> dict[str, str]:
    key = os.environ.get(API_KEY_VARIABLE)
    return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "the server refused the request"
