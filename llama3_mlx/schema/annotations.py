"""What `Annotated` says of a type beside its kind: a description, and limits of pydantic's `Field` or annotated_types.

Neither package is imported: their objects are read by their attributes, which
https://github.com/annotated-types/annotated-types documents.
"""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from ..json_types import JsonValue

_LIMITS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
}
_LENGTHS = {"min_length": "min", "max_length": "max"}
_UNITS = {"string": "Length", "array": "Items", "object": "Properties"}


def description_of(kind: Any) -> str | None:
    """Return the text or the description in an Annotated type."""
    for each in _metadata(kind):
        if isinstance(each, str):
            return each
        described = getattr(each, "description", None) or getattr(each, "documentation", None)
        if isinstance(described, str):
            return described
    return None


def limits_of(kind: Any, json_type: str | None) -> dict[str, JsonValue]:
    """Return the keywords of JSON Schema for the limits in an Annotated type, whose JSON is of `json_type`."""
    limits: dict[str, JsonValue] = {}
    for each in _metadata(kind):
        for name, keyword in _LIMITS.items():
            value = getattr(each, name, None)
            if value is not None and not callable(value):
                limits[keyword] = getattr(value, "pattern", value)
        for name, side in _LENGTHS.items():
            value = getattr(each, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and (side == "max" or value):
                limits[side + _UNITS.get(json_type or "string", "Length")] = value
    return limits


def _metadata(kind: Any) -> Iterator[Any]:
    """Yield what stands beside the type, outermost first, and what pydantic's Field holds inside."""
    while get_origin(kind) is Annotated:
        kind, *given = get_args(kind)
        for each in given:
            yield each
            inner = getattr(each, "metadata", ())
            yield from inner if isinstance(inner, list | tuple) else ()
