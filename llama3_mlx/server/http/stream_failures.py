"""A failure in the middle of a stream: the status has long been sent, so it becomes an event of its own."""

from collections.abc import AsyncIterator

from starlette.requests import Request

from ...errors import Llama3MLXError
from .errors import ApiError, as_api_error, error_body
from .streaming import json_line, sse


async def failing_softly(
    parts: AsyncIterator[bytes], request: Request, *, event: str | None = None, lines: bool = False
) -> AsyncIterator[bytes]:
    """Pass the parts on; an error ends them with an error object in the shape of the request's protocol."""
    try:
        async for part in parts:
            yield part
    except (ApiError, Llama3MLXError) as error:
        known = error if isinstance(error, ApiError) else as_api_error(error)
        body = error_body(request.url.path, known, request.state.request_id)
        yield json_line(body) if lines else sse(body, event)
