"""Errors as each protocol writes them: OpenAI's object, Anthropic's object, Ollama's one text."""

import json
from collections.abc import Mapping

from starlette.responses import Response

from ...errors import (
    ContextLengthError,
    ConversionError,
    DialogError,
    HubError,
    Llama3MLXError,
    RequestError,
    StructureError,
)
from ...json_types import JsonMapping, JsonObject
from ...library.catalogue import UnknownModelError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    411: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(Exception):
    """A request that is answered with an error status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        details: JsonMapping | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})
        self.details = details
        """What Anthropic's clients branch on."""

    @property
    def kind(self) -> str:
        """The error's type in OpenAI's and Anthropic's words."""
        return _TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")


def as_api_error(error: Llama3MLXError) -> ApiError:
    """Return how an error of the package is answered: the caller's fault is 400, a missing model 404."""
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), param="messages", code="context_length_exceeded")
    if isinstance(error, UnknownModelError):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, HubError):
        return ApiError(404, str(error), code="model_not_found")
    if isinstance(error, StructureError):
        return ApiError(422, f"the model's answer doesn't fit the schema: {error}", code="answer_outside_schema")
    if isinstance(error, RequestError | DialogError | ConversionError):
        return ApiError(400, str(error))
    return ApiError(500, str(error))


def error_body(path: str, error: ApiError, request_id: str) -> JsonObject:
    """Return the error in the shape of the protocol that `path` belongs to."""
    if path.startswith("/api/"):
        return {"error": error.message}
    if path.startswith("/v1/messages"):
        inner: JsonObject = {"type": error.kind, "message": error.message}
        inner |= {"details": error.details} if error.details else {}
        return {"type": "error", "error": inner, "request_id": request_id}
    return {
        "error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code},
    }


def error_response(path: str, error: ApiError, request_id: str) -> Response:
    """Return the response of an error; ASCII alone, since the message may quote what no encoding carries."""
    body = json.dumps(error_body(path, error, request_id))
    return Response(body, error.status, {**error.headers, "x-request-id": request_id}, "application/json")
