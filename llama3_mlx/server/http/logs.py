"""The log on stderr: one line a request, in words or as JSON; no prompt and no answer unless requested."""

import json
import logging
import sys
import time

from ...json_types import JsonObject, JsonValue

LOGGER = logging.getLogger("llama3_mlx.server")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _stamp(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(line | _fields(record), default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        parts = [f"{name}={_quoted(value)}" for name, value in _fields(record).items()]
        return " ".join([_stamp(record), record.levelname.lower(), record.getMessage(), *parts])


def start_logging(log_format: str) -> None:
    """Write the server's and uvicorn's records to stderr in the given format."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_Json() if log_format == "json" else _Text())
    for name, level in (("llama3_mlx.server", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [stream], False
        logger.setLevel(level)


def log(event: str, *, level: int = logging.INFO, **values: JsonValue) -> None:
    """Write one event with its values; those that are None are left out."""
    given = {name: value for name, value in values.items() if value is not None}
    LOGGER.log(level, event, extra={"values": given})


def _fields(record: logging.LogRecord) -> JsonObject:
    values: JsonObject = dict(getattr(record, "values", {}))
    if record.exc_info and record.exc_info[1] is not None:
        values["traceback"] = logging.Formatter().formatException(record.exc_info)
    return values


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _quoted(value: JsonValue) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if text.isprintable() and not set(text) & set(' "=') and text else json.dumps(text)
