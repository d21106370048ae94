"""Which objects of a schema can be closed: known to have no other properties than those that are listed."""

from collections.abc import Mapping

from ..json_types import JsonValue

HOLD_PROPERTIES = frozenset(("properties", "patternProperties", "additionalProperties", "unevaluatedProperties"))
"""Keywords that say something of the properties of an object."""


def can_be_closed(schema: Mapping[str, JsonValue]) -> bool:
    """Return whether an object is known to have no other properties than those it lists."""
    if "properties" not in schema or {"patternProperties", "$ref", "if", "dependentSchemas"} & schema.keys():
        return False
    if schema.get("unevaluatedProperties", False) is not False:
        return False
    parts = [part for keyword in ("allOf", "anyOf", "oneOf") for part in schema.get(keyword, ())]
    return set(schema.get("required", ())) <= schema["properties"].keys() and not any(map(_adds_properties, parts))


def _adds_properties(schema: JsonValue) -> bool:
    return isinstance(schema, Mapping) and bool(
        {*HOLD_PROPERTIES, "$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"} & schema.keys()
    )
