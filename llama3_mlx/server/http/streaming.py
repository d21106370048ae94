"""Server-sent events and JSON lines as bytes, kept alive while nothing comes; errors as stream events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

from starlette.requests import Request

from ...errors import Llama3MLXError
from ...json_types import JsonMapping, JsonValue
from .errors import ApiError, as_api_error, error_body
from .logs import LOGGER

EVENT_STREAM, JSON_LINES = "text/event-stream", "application/x-ndjson"
STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
KEEP_ALIVE_S = 15.0
COMMENT = b": still here\n\n"
DONE = b"data: [DONE]\n\n"


def sse(value: JsonMapping, event: str | None = None) -> bytes:
    """Return one event; `event` is its name where the protocol has names."""
    data = f"data: {to_json(value)}\n\n".encode()
    return f"event: {event}\n".encode() + data if event else data


def json_line(value: JsonMapping) -> bytes:
    """Return one line of newline-delimited JSON."""
    return to_json(value).encode() + b"\n"


def to_json(value: JsonValue) -> str:
    """Return compact JSON that keeps all characters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def kept_alive(parts: AsyncIterator[bytes], sign: bytes, every_s: float = KEEP_ALIVE_S) -> AsyncIterator[bytes]:
    """Yield the parts, and `sign` whenever none came for a while, so that no proxy or client gives up waiting."""
    following: asyncio.Task[bytes] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(parts))
            while not (await asyncio.wait({following}, timeout=every_s))[0]:
                yield sign
            try:
                part = following.result()
            except StopAsyncIteration:
                return
            yield part
    finally:
        if following is not None and not following.done():
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await parts.aclose()  # type: ignore[attr-defined]


async def errors_as_events(
    parts: AsyncIterator[bytes], request: Request, *, event: str | None = None, lines: bool = False
) -> AsyncIterator[bytes]:
    """Pass the parts on; an error ends them with an error object in the shape of the request's protocol.

    The status has been sent long before, so the error becomes an event of its own.
    """
    try:
        async for part in parts:
            yield part
    except Exception as error:
        if isinstance(error, Llama3MLXError):
            error = as_api_error(error)
        elif not isinstance(error, ApiError):
            LOGGER.log(logging.ERROR, "unexpected error", exc_info=error)
            error = ApiError(500, "the server met an error of its own; its log says more")
        body = error_body(request.url.path, error, request.state.request_id)
        yield json_line(body) if lines else sse(body, event)
