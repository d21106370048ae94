"""A request's body: read whole under limits of size, time and nesting before any handler sees it."""

import asyncio
import contextlib
import json
import re
import zlib
from collections.abc import Mapping

from starlette.types import Message, Receive

from ..settings import ServerSettings
from .errors import ApiError

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BRACKET = re.compile(rb"[\[\]{}]")
_DRAIN_BYTES, _DRAIN_S = 16_000_000, 2.0


async def read_body(receive: Receive, headers: Mapping[str, str], settings: ServerSettings) -> bytes:
    """Return the body; raises ApiError 413 past the size, 408 past the time, 400 if the client breaks off."""
    limit = int(settings.max_body_mb * 1e6)
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        await _drain(receive)
        raise _too_large(limit)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _collect(receive, limit)
    except TimeoutError:
        raise ApiError(
            408, f"the body didn't arrive within {settings.body_timeout_s:g} s", headers={"connection": "close"}
        ) from None


async def _drain(receive: Receive) -> None:
    """Read and drop some of a body that is too large: a client that still sends would not see the answer."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while size < _DRAIN_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


async def _collect(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "the client broke off before the body was whole")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            if message.get("more_body"):
                await _drain(receive)
            raise _too_large(limit)
        if not message.get("more_body"):
            return b"".join(parts)


def decoded(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a compressed body as it was; raises ApiError 415 for an unknown encoding, 413 past the limit."""
    windows = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
    kind = encoding.strip().lower()
    if kind == "identity":
        return body
    if kind not in windows:
        raise ApiError(415, f"the content encoding must be gzip or deflate, not {encoding[:40]!r}")
    stream = zlib.decompressobj(windows[kind])
    try:
        value = stream.decompress(body, limit + 1)
    except zlib.error:
        raise ApiError(400, f"the body isn't valid {kind}") from None
    if len(value) > limit:
        raise _too_large(limit)
    if not stream.eof:
        raise ApiError(400, f"the body isn't valid {kind}: it ends too early")
    return value


def check_body(body: bytes, max_depth: int) -> None:
    """Raise ApiError 400 unless the body is one JSON value in UTF-8, nested at most `max_depth` deep."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} can't be read") from None
    depth = _depth(body)
    if depth > max_depth:
        raise ApiError(400, f"the JSON is nested {depth} deep; at most {max_depth} is accepted")
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ApiError(400, f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None

    if _SURROGATE.search(body):
        _check_surrogates(value)


def _check_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError(400, "a text in the body holds half a character: a surrogate on its own") from None


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what the client does next."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _depth(body: bytes) -> int:
    """Return the deepest nesting of JSON, found without recursion so that no depth can overflow the stack."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} isn't a JSON number")


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than the {limit} bytes that are accepted", headers={"connection": "close"}
    )
