"""JSON schemas of Python types: what a tool's parameters and a structured answer may hold.

Source: https://json-schema.org/draft/2020-12, and pydantic's own schemas for its models.
"""

import dataclasses
import datetime
import enum
import json
import typing
import uuid
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from ..errors import RequestError
from ..json_types import JsonObject, JsonValue
from .annotations import description_of, limits_of
from .docstrings import read_docstring
from .type_kinds import is_collection, is_mapping, is_named_tuple, is_pydantic, is_union, unwrapped

Schema = dict[str, JsonValue]

_SIMPLE: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    None: "null",
    dict: "object",
    list: "array",
    tuple: "array",
    set: "array",
    frozenset: "array",
}
FORMATS: dict[Any, str] = {
    datetime.datetime: "date-time",
    datetime.date: "date",
    datetime.time: "time",
    uuid.UUID: "uuid",
}


def type_schema(kind: Any, where: str = "the schema") -> Schema:
    """Return the JSON schema of a type: simple ones, containers, Literal, Enum, dataclasses, TypedDict, pydantic's.

    Classes that contain themselves stand under `$defs`. Raises RequestError naming `where` for other types.
    """
    writer = _Writer()
    schema = writer.schema(kind, where)
    return {**schema, "$defs": writer.definitions} if writer.definitions else schema


def object_schema(fields: Mapping[str, "Field"], where: str) -> Schema:
    """Return the schema of an object with these fields."""
    writer = _Writer()
    schema = writer.fields(fields, where)
    del schema["additionalProperties"]
    return {**schema, "$defs": writer.definitions} if writer.definitions else schema


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A named value of a class or function; without a default it is required."""

    kind: Any
    description: str = ""
    required: bool = True
    default: JsonValue = None


def dataclass_fields(kind: Any) -> dict[str, Field]:
    """Return the fields that the constructor of a dataclass takes."""
    hints = hints_of(kind, kind.__name__)
    _, texts = read_docstring(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if field.default is dataclasses.MISSING else field.default
        text = field.metadata.get("description") or texts.get(field.name, "")
        if field.init:
            fields[field.name] = Field(hints[field.name], str(text), required, default)
    return fields


def typed_dict_fields(kind: Any) -> dict[str, Field]:
    """Return the keys of a TypedDict."""
    hints = hints_of(kind, kind.__name__)
    _, texts = read_docstring(kind)
    return {
        name: Field(_without_qualifier(hint), texts.get(name, ""), name in kind.__required_keys__)
        for name, hint in hints.items()
    }


def hints_of(documented: Any, name: str) -> JsonObject:
    """Return the type hints with names resolved; raises RequestError where that can't be done."""
    try:
        return typing.get_type_hints(documented, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise RequestError(f"the type hints of {name} can't be resolved: {error}") from None


class _Writer:
    """Writes the schemas of one document, which share its definitions."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self._open: list[JsonValue] = []
        self._recursive: set[Any] = set()

    def schema(self, kind: Any, where: str) -> Schema:
        schema = self._plain(unwrapped(kind), where)
        json_type = schema.get("type")
        schema = {**schema, **limits_of(kind, json_type if isinstance(json_type, str) else None)}
        described = description_of(kind)
        return {**schema, "description": described} if described else schema

    def _plain(self, kind: Any, where: str) -> Schema:
        if kind in (Any, object):
            return {}
        if isinstance(kind, typing.Hashable) and (kind in _SIMPLE or kind in FORMATS):
            return {"type": _SIMPLE[kind]} if kind in _SIMPLE else {"type": "string", "format": FORMATS[kind]}
        if get_origin(kind) is Literal:
            return _one_of([each.value if isinstance(each, enum.Enum) else each for each in get_args(kind)], where)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return _one_of([member.value for member in kind], where)
        if is_union(kind):
            return {"anyOf": [self.schema(each, where) for each in get_args(kind)]}
        if is_pydantic(kind):
            return self._pydantic(kind)
        if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or typing.is_typeddict(kind)):
            return self._class(kind)
        if is_mapping(kind):
            return self._mapping(kind, where)
        if is_collection(kind):
            return self._collection(kind, where)
        name = getattr(kind, "__name__", None) or repr(kind)
        raise RequestError(
            f"{where} has the type {name}, which has no JSON schema: take str, int, float, bool, None, list, tuple, "
            "dict, Literal, Enum, Optional, dates, UUID, a dataclass, a TypedDict or a pydantic model"
        )

    def _mapping(self, kind: Any, where: str) -> Schema:
        arguments = get_args(kind)
        if arguments and unwrapped(arguments[0]) not in (str, Any):
            raise RequestError(f"{where} has keys of the type {arguments[0]}, but keys in JSON are texts: take str")
        values = self.schema(arguments[1], where) if arguments else {}
        return {"type": "object", "additionalProperties": values} if values else {"type": "object"}

    def _collection(self, kind: Any, where: str) -> Schema:
        arguments = get_args(kind)
        if is_named_tuple(kind):
            parts = [self.schema(hint, f"{name} of {where}") for name, hint in hints_of(kind, kind.__name__).items()]
            required = len(parts) - len(kind._field_defaults)
            return {"type": "array", "prefixItems": parts, "minItems": required, "maxItems": len(parts)}
        if (get_origin(kind) or kind) is tuple and Ellipsis not in arguments:
            parts = [self.schema(each, where) for each in arguments]
            return {"type": "array", "prefixItems": parts, "minItems": len(parts), "maxItems": len(parts)}
        items = self.schema(arguments[0], where) if arguments else {}
        return {"type": "array", "items": items} if items else {"type": "array"}

    def _class(self, kind: Any) -> Schema:
        name = kind.__name__
        if kind in self._open:
            self._recursive.add(kind)
            return {"$ref": f"#/$defs/{name}"}
        self._open.append(kind)
        members = dataclass_fields(kind) if dataclasses.is_dataclass(kind) else typed_dict_fields(kind)
        schema = self.fields(members, name)
        self._open.remove(kind)
        if kind not in self._recursive:
            return schema
        self._define(name, schema)
        return {"$ref": f"#/$defs/{name}"}

    def fields(self, fields: Mapping[str, Field], where: str) -> Schema:
        properties = {}
        for name, field in fields.items():
            schema = self.schema(field.kind, f"{name} of {where}")
            if field.description and "description" not in schema:
                schema = {**schema, "description": field.description}
            if field.default is not None and _is_json(field.default):
                schema = {**schema, "default": field.default}
            properties[name] = schema
        required = [name for name, field in fields.items() if field.required]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def _pydantic(self, kind: Any) -> Schema:
        schema = kind.model_json_schema()
        for name, definition in schema.pop("$defs", {}).items():
            self._define(name, _closed(definition))
        return _closed(schema)

    def _define(self, name: str, schema: Schema) -> None:
        if self.definitions.setdefault(name, schema) != schema:
            raise RequestError(f"two different classes of one schema are called {name}: rename one of them")


def _one_of(values: list[JsonValue], where: str) -> Schema:
    if not all(value is None or isinstance(value, str | int | float) for value in values):
        raise RequestError(f"{where} has values that are no JSON: take texts, numbers, booleans or None")
    kinds = sorted({_SIMPLE[type(value)] for value in values if type(value) in _SIMPLE})
    if len(kinds) == 1 and all(type(value) in _SIMPLE for value in values):
        return {"type": kinds[0], "enum": values}
    return {"enum": values}


def _closed(schema: Schema) -> Schema:
    """Return pydantic's schema of an object without room for keys that the model would drop."""
    return (
        {**schema, "additionalProperties": schema.get("additionalProperties", False)}
        if "properties" in schema
        else schema
    )


def _without_qualifier(hint: Any) -> Any:
    while get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = get_args(hint)[0]
    return hint


def _is_json(value: JsonValue) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, enum.Enum)
