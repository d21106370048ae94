"""Checks JSON values against JSON schemas, for tools and answers whose schema is a dict.

Knows the keywords of draft 2020-12 that grammars know, and `not`; formats are left to the grammar.
Source: https://json-schema.org/draft/2020-12/json-schema-validation.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from ..errors import RequestError

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
    "array": (list,),
}
_MAX_DEPTH = 200


def check_json(schema: Any, value: Any, where: str = "the answer") -> None:
    """Check a JSON value; raises RequestError naming the first place that doesn't fit, and why."""
    fault = next(_Check(schema).faults(schema, value, where, 0), None)
    if fault is not None:
        raise RequestError(fault)


class _Check:
    """Walks through one schema document and a value."""

    def __init__(self, document: Any) -> None:
        self._document = document

    def faults(self, schema: Any, value: Any, where: str, depth: int) -> Iterator[str]:
        """Yield what is wrong with the value, in the order of the schema's keywords."""
        if schema is True or schema == {}:
            return
        if not isinstance(schema, Mapping):
            yield f"{where} isn't accepted"
            return
        if depth > _MAX_DEPTH:
            raise RequestError(f"{where}: the schema refers to itself without end")
        yield from self._kind(schema, value, where)
        yield from self._combined(schema, value, where, depth + 1)
        if isinstance(value, str):
            yield from _text(schema, value, where)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield from _number(schema, value, where)
        elif isinstance(value, list):
            yield from self._array(schema, value, where, depth + 1)
        elif isinstance(value, Mapping):
            yield from self._object(schema, value, where, depth + 1)

    def _fits(self, schema: Any, value: Any, depth: int) -> bool:
        return next(self.faults(schema, value, "", depth), None) is None

    def _kind(self, schema: Mapping[str, Any], value: Any, where: str) -> Iterator[str]:
        kinds = schema.get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if kinds and not any(_is_a(kind, value) for kind in kinds):
            yield f"{where} must be of type {' or '.join(kinds)}, not {_shown(value)}"
        allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if allowed is not None and not any(_equal(each, value) for each in allowed):
            yield f"{where} must be one of {', '.join(map(_shown, allowed))}, not {_shown(value)}"
        if "const" in schema and "enum" in schema and not _equal(schema["const"], value):
            yield f"{where} must be {_shown(schema['const'])}, not {_shown(value)}"

    def _combined(self, schema: Mapping[str, Any], value: Any, where: str, depth: int) -> Iterator[str]:
        if "$ref" in schema:
            yield from self.faults(self._resolve(schema["$ref"]), value, where, depth)
        for part in schema.get("allOf", ()):
            yield from self.faults(part, value, where, depth)
        if "anyOf" in schema:
            yield from self._any_of(schema["anyOf"], value, where, depth)
        if "oneOf" in schema and sum(self._fits(part, value, depth) for part in schema["oneOf"]) != 1:
            yield f"{where} must fit exactly one of {len(schema['oneOf'])} schemas: {_shown(value)}"
        if "not" in schema and self._fits(schema["not"], value, depth):
            yield f"{where} is {_shown(value)}, which is excluded"

    def _any_of(self, parts: list[Any], value: Any, where: str, depth: int) -> Iterator[str]:
        faults = [next(self.faults(part, value, where, depth), None) for part in parts]
        if None not in faults:
            yield "; or ".join(dict.fromkeys(filter(None, faults)))

    def _resolve(self, reference: str) -> Any:
        found = self._document
        if reference.split("/")[0] != "#":
            raise RequestError(f"the schema refers to {reference!r:.80}: only references inside it (#/…) are followed")
        for part in reference.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None:
            raise RequestError(f"the schema refers to {reference!r:.80}, which it doesn't have")
        return found

    def _array(self, schema: Mapping[str, Any], value: list[Any], where: str, depth: int) -> Iterator[str]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not least <= len(value) <= most:
            yield f"{where} must have {_between(least, most)} items, not {len(value)}"
        if schema.get("uniqueItems") and len({_canonical(item) for item in value}) < len(value):
            yield f"{where} has an item twice"
        first = schema.get("prefixItems", [])
        for place, item in enumerate(value):
            part = first[place] if place < len(first) else schema.get("items", True)
            yield from self.faults(part, item, f"{where}[{place}]", depth)

    def _object(self, schema: Mapping[str, Any], value: Mapping[str, Any], where: str, depth: int) -> Iterator[str]:
        missing = [name for name in schema.get("required", ()) if name not in value]
        if missing:
            yield f"{where} lacks {', '.join(missing)}"
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        if not least <= len(value) <= most:
            yield f"{where} must have {_between(least, most)} properties, not {len(value)}"
        listed, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, item in value.items():
            parts = [listed[name]] if name in listed else []
            parts += [part for pattern, part in patterns.items() if re.search(pattern, name)]
            if not parts and schema.get("additionalProperties", True) is False:
                yield f"{where} has the unknown {name!r:.80}; accepted are {', '.join(listed) or 'none'}"
            for part in parts or [schema.get("additionalProperties", True)]:
                yield from self.faults(part, item, f"{where}.{name}", depth)


def _text(schema: Mapping[str, Any], value: str, where: str) -> Iterator[str]:
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    if not least <= len(value) <= most:
        yield f"{where} must have {_between(least, most)} characters, not {len(value)}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where} must match {schema['pattern']}, not {_shown(value)}"


def _number(schema: Mapping[str, Any], value: float, where: str) -> Iterator[str]:
    bounds = {
        "at least": ("minimum", lambda bound: value >= bound),
        "at most": ("maximum", lambda bound: value <= bound),
        "over": ("exclusiveMinimum", lambda bound: value > bound),
        "under": ("exclusiveMaximum", lambda bound: value < bound),
        "a multiple of": ("multipleOf", lambda bound: _is_multiple(value, bound)),
    }
    for words, (keyword, holds) in bounds.items():
        if keyword in schema and not holds(schema[keyword]):
            yield f"{where} must be {words} {schema[keyword]}, not {value}"


def _is_multiple(value: float, of: float) -> bool:
    return (Fraction(str(value)) / Fraction(str(of))).denominator == 1


def _is_a(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _TYPES.get(kind, ()))


def _equal(one: Any, other: Any) -> bool:
    return _canonical(one) == _canonical(other)


def _canonical(value: Any) -> Any:
    """Return something that is equal and hashable where JSON Schema says that values are equal: 1 and 1.0 are."""
    if isinstance(value, Mapping):
        return ("object", frozenset((key, _canonical(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return ("array", tuple(map(_canonical, value)))
    return ("boolean", value) if isinstance(value, bool) else value


def _between(least: float, most: float) -> str:
    if most == math.inf:
        return f"at least {least}"
    return f"{least}" if least == most else f"{least} to {most}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else text[:77] + "…"
