"""Times as Ollama's clients read them."""

from datetime import UTC, datetime


def now() -> str:
    """Return the present time in RFC 3339 with microseconds."""
    return at(datetime.now(UTC).timestamp())


def at(seconds: float) -> str:
    """Return the time `seconds` after 1970 in RFC 3339 with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
