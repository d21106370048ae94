"""Random JSON schemas of the kinds in the JSON Schema test suite, and values that fit them more often than chance."""

import random
import string
from collections.abc import Mapping
from typing import Any

FORMATS = {"date": "2026-11-23", "time": "10:20:30Z", "date-time": "2026-11-23T10:20:30Z", "ipv4": "127.0.0.1"}
FORMATS |= {"uuid": "12345678-1234-5678-1234-567812345678", "email": "a@example.org", "duration": "P1D", "ipv6": "::1"}
FORMATS |= {"hostname": "example.org", "uri": "https://example.org/"}
PATTERNS = {r"^[a-z]{1,5}$": "abc", r"^\d{3}-\d{2}$": "123-45", r"[A-Z]": "xAy", r"^(yes|no)$": "yes", "^$": ""}
_SCALARS: list[Any] = [None, True, False, 0, 1, -7, 2.5, "", "a", 'q"\\', "Zürich 🦙", [1, "x"], {"k": None}]
_NAMES = ["a", "b", "name", "größe", 'q"k', "x y", "id", "c"]


def random_schema(chance: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema, in half of the cases with definitions that it refers to, itself included."""
    names = chance.sample(["node", "leaf"], chance.choice([0, 0, 1, 2]))
    schema = _schema(chance, depth, names)
    definitions: dict[str, Any] = {}
    for name in names:
        # A reference to itself stands where it may be left out, so that values stay finite.
        inner = _schema(chance, 1, [])
        if chance.random() < 0.5:
            inner = {"type": "object", "properties": {"value": inner, "next": {"$ref": f"#/$defs/{name}"}}}
            inner["additionalProperties"] = False
        definitions[name] = inner
    return {**schema, "$defs": definitions} if definitions else schema


def _schema(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    kinds = ["string", "number", "integer", "enum", "const", "boolean", "null", "types", "format", "pattern"]
    if depth:
        kinds += ["object"] * 5 + ["array"] * 4 + ["anyOf", "allOf", "map", "prefix"]
    if names:
        kinds += ["ref"] * 3
    return _KINDS[chance.choice(kinds)](chance, depth, names)


def _string(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    least = chance.randint(0, 4)
    if chance.random() < 0.5:
        schema["minLength"] = least
    if chance.random() < 0.6:
        schema["maxLength"] = least + chance.randint(0, 6)
    return schema


def _number(chance: random.Random, depth: int, names: list[str], kind: str = "number") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": kind}
    low = chance.randint(-50, 50)
    high = low + chance.randint(2, 40)
    if chance.random() < 0.5:
        schema[chance.choice(["minimum", "exclusiveMinimum"])] = low
    if chance.random() < 0.5:
        schema[chance.choice(["maximum", "exclusiveMaximum"])] = high + (0.5 if kind == "number" else 0)
    if kind == "integer" and chance.random() < 0.2:
        schema["multipleOf"] = chance.choice([2, 3, 10])
    return schema


def _integer(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    return _number(chance, depth, names, "integer")


def _object(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    properties = chance.sample(_NAMES, chance.randint(0, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(chance, depth - 1, names) for name in properties},
        "required": [name for name in properties if chance.random() < 0.6],
    }
    extra = chance.random()
    if extra < 0.6:
        schema["additionalProperties"] = False
    elif extra < 0.8:
        schema["additionalProperties"] = _schema(chance, 0, names)
    return schema


def _map(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "additionalProperties": _schema(chance, depth - 1, names)}
    if chance.random() < 0.3:
        del schema["additionalProperties"]
        schema["patternProperties"] = {"^x_": _schema(chance, 0, names)}
        schema["additionalProperties"] = False
    return schema


def _array(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": _schema(chance, depth - 1, names)}
    least = chance.randint(0, 2)
    if chance.random() < 0.5:
        schema["minItems"] = least
    if chance.random() < 0.7:
        schema["maxItems"] = least + chance.randint(0, 3)
    return schema


def _prefix(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    parts = [_schema(chance, depth - 1, names) for _ in range(chance.randint(1, 3))]
    return {
        "type": "array",
        "prefixItems": parts,
        "items": chance.choice([False, {"type": "integer"}]),
        "minItems": chance.randint(0, len(parts)),
    }


def _all_of(chance: random.Random, depth: int, names: list[str]) -> dict[str, Any]:
    parts = []
    for name in chance.sample(_NAMES, 2):
        properties = {name: _schema(chance, 0, [])}
        parts.append({"type": "object", "properties": properties, "required": [name]})
    return {"allOf": parts}


_KINDS: Mapping[str, Any] = {
    "string": _string,
    "number": _number,
    "integer": _integer,
    "object": _object,
    "map": _map,
    "array": _array,
    "prefix": _prefix,
    "allOf": _all_of,
    "enum": lambda chance, depth, names: {"enum": chance.sample(_SCALARS, chance.randint(1, 5))},
    "const": lambda chance, depth, names: {"const": chance.choice(_SCALARS)},
    "boolean": lambda chance, depth, names: {"type": "boolean"},
    "null": lambda chance, depth, names: {"type": "null"},
    "types": lambda chance, depth, names: {"type": chance.sample(["string", "integer", "null", "boolean"], 2)},
    "format": lambda chance, depth, names: {"type": "string", "format": chance.choice(list(FORMATS))},
    "pattern": lambda chance, depth, names: {"type": "string", "pattern": chance.choice(list(PATTERNS))},
    "anyOf": lambda chance, depth, names: {
        "anyOf": [_schema(chance, depth - 1, names) for _ in range(chance.randint(2, 3))]
    },
    "ref": lambda chance, depth, names: {"$ref": f"#/$defs/{chance.choice(names)}"},
}


def random_value(chance: random.Random, schema: Any, document: Any = None) -> Any:
    """A JSON value that follows the schema, with mistakes strewn in."""
    document = schema if document is None else document
    if not isinstance(schema, Mapping) or chance.random() < 0.08:
        return chance.choice([*_SCALARS, 5, 10, -20, 100, "abcdefgh"])
    if "$ref" in schema:
        return random_value(chance, document["$defs"][schema["$ref"].split("/")[-1]], document)
    for keyword in ("anyOf", "allOf"):
        if keyword in schema:
            values = [random_value(chance, part, document) for part in schema[keyword]]
            whole = {key: item for value in values if isinstance(value, dict) for key, item in value.items()}
            return whole if keyword == "allOf" else chance.choice(values)
    if "enum" in schema or "const" in schema:
        return chance.choice(schema.get("enum", [schema.get("const")]))
    kind = schema["type"] if isinstance(schema["type"], str) else chance.choice(schema["type"])
    if kind == "object":
        return _random_object(chance, schema, document)
    if kind == "array":
        first = schema.get("prefixItems", [])
        size = chance.randint(schema.get("minItems", 0), schema.get("maxItems", 4) + 1)
        parts = [first[n] if n < len(first) else schema["items"] for n in range(size)]
        return [random_value(chance, part, document) for part in parts]
    return _random_scalar(chance, kind, schema)


def _random_object(chance: random.Random, schema: Mapping[str, Any], document: Any) -> dict[str, Any]:
    listed = schema.get("properties", {})
    kept = [name for name in listed if chance.random() < (0.95 if name in schema.get("required", ()) else 0.5)]
    value = {name: random_value(chance, listed[name], document) for name in kept}
    if chance.random() < 0.3:
        name = chance.choice(["x_1", "extra"])
        extra = schema.get("patternProperties", {}).get("^x_", schema.get("additionalProperties", True))
        value[name] = random_value(chance, extra, document)
    return value


def _random_scalar(chance: random.Random, kind: str, schema: Mapping[str, Any]) -> Any:
    if kind == "string":
        if "pattern" in schema or "format" in schema:
            return chance.choice([PATTERNS.get(schema.get("pattern", "")), FORMATS.get(schema.get("format", "")), "zz"])
        size = chance.randint(max(0, schema.get("minLength", 0) - 1), schema.get("maxLength", 6) + 1)
        return "".join(chance.choices(string.ascii_letters + 'ä"\\ 🦙', k=size))
    if kind in ("integer", "number"):
        high = int(schema.get("maximum", schema.get("exclusiveMaximum", 60)))
        low = int(schema.get("minimum", schema.get("exclusiveMinimum", high - 30)))
        value = chance.randint(low - 1, high + 1)
        return value if kind == "integer" or chance.random() < 0.5 else value + 0.5
    return chance.choice([True, False]) if kind == "boolean" else None
