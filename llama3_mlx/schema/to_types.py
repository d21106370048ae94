"""JSON values to values of Python types, checked: arguments of tools and structured answers."""

import dataclasses
import datetime
import enum
import json
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from ..errors import RequestError
from ..json_types import JsonValue
from .annotations import limits_of
from .from_types import FORMATS, Field, dataclass_fields, hints_of, typed_dict_fields
from .type_kinds import is_collection, is_mapping, is_named_tuple, is_pydantic, is_union, unwrapped

_READERS: dict[Any, Callable[[str], Any]] = {
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    uuid.UUID: uuid.UUID,
}


def typed_value(kind: Any, value: JsonValue, where: str = "the answer") -> JsonValue:
    """Return a JSON value as a value of the type: dataclasses, enums and pydantic models are made, tuples and sets too.

    Raises RequestError naming the place, such as `the answer.people[2].age`, and the value that doesn't fit.
    """
    limits = limits_of(kind, _json_type(value))
    kind = unwrapped(kind)
    if limits:
        from .check import check_json

        check_json(limits, value, where)
    if kind in (Any, object):
        return value
    if is_union(kind):
        return _union(kind, value, where)
    if get_origin(kind) is Literal:
        return _member(get_args(kind), value, where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(_member([member.value for member in kind], value, where))
    if is_pydantic(kind):
        return _pydantic(kind, value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**typed_fields(dataclass_fields(kind), value, where))
    if typing.is_typeddict(kind):
        return typed_fields(typed_dict_fields(kind), value, where)
    if isinstance(kind, typing.Hashable) and kind in FORMATS:
        return _formatted(kind, value, where)
    if is_mapping(kind):
        _expect(isinstance(value, Mapping), value, where, "an object")
        values = get_args(kind)[1] if get_args(kind) else Any
        return {key: typed_value(values, item, f"{where}.{key}") for key, item in value.items()}
    if is_collection(kind):
        return _collection(kind, value, where)
    return _simple(kind, value, where)


def typed_fields(fields: Mapping[str, Field], value: JsonValue, where: str) -> dict[str, JsonValue]:
    """Return an object's values by name, each of its field's type; raises RequestError for missing or unknown names."""
    _expect(isinstance(value, Mapping), value, where, "an object")
    missing = [name for name, field in fields.items() if field.required and name not in value]
    unknown = [name for name in value if name not in fields]
    if missing:
        raise RequestError(f"{where} lacks {', '.join(missing)}")
    if unknown:
        raise RequestError(f"{where} has the unknown {unknown[0]!r}; accepted are {', '.join(fields) or 'none'}")
    return {name: typed_value(fields[name].kind, item, f"{where}.{name}") for name, item in value.items()}


def _union(kind: Any, value: JsonValue, where: str) -> JsonValue:
    """Return the value as the first of the types that it fits; exact ones go first, so that 1 stays an int."""
    reasons = []
    for each in sorted(get_args(kind), key=lambda each: type(value) is not each):
        try:
            return typed_value(each, value, where)
        except RequestError as error:
            reasons.append(str(error))
    raise RequestError("; or ".join(dict.fromkeys(reasons)))


def _member(allowed: typing.Iterable[Any], value: JsonValue, where: str) -> JsonValue:
    """Return the one of the values that equals this one; true isn't 1 here."""
    allowed = list(allowed)
    for each in allowed:
        plain = each.value if isinstance(each, enum.Enum) else each
        if plain == value and isinstance(plain, bool) == isinstance(value, bool):
            return each
    raise RequestError(f"{where} is {value!r:.80}; accepted are {', '.join(map(repr, allowed))}")


def _pydantic(kind: Any, value: JsonValue, where: str) -> JsonValue:
    from pydantic import ValidationError

    try:
        # Strict models take in JSON what they don't take in Python: dates and enums as texts, tuples as arrays.
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise RequestError(f"{where}{place}: {first['msg']}, not {first['input']!r:.80}") from None


def _formatted(kind: Any, value: JsonValue, where: str) -> JsonValue:
    _expect(isinstance(value, str), value, where, f"a {FORMATS[kind]}")
    try:
        return _READERS[kind](value)
    except ValueError:
        raise RequestError(f"{where} must be a {FORMATS[kind]}, not {value!r:.80}") from None


def _collection(kind: Any, value: JsonValue, where: str) -> JsonValue:
    _expect(isinstance(value, list | tuple), value, where, "an array")
    if is_named_tuple(kind):
        return _named_tuple(kind, value, where)
    arguments, origin = get_args(kind), get_origin(kind) or kind
    if origin is tuple and arguments and Ellipsis not in arguments:
        _expect(len(value) == len(arguments), value, where, f"an array of {len(arguments)}")
        return tuple(
            typed_value(each, item, f"{where}[{n}]")
            for n, (each, item) in enumerate(zip(arguments, value, strict=True))
        )
    items = [typed_value(arguments[0] if arguments else Any, item, f"{where}[{n}]") for n, item in enumerate(value)]
    if origin in (tuple, set, frozenset):
        return origin(items)
    return set(items) if issubclass(origin, typing.AbstractSet) else items


def _named_tuple(kind: Any, value: JsonValue, where: str) -> JsonValue:
    hints = list(hints_of(kind, kind.__name__).items())
    required = len(hints) - len(kind._field_defaults)
    between = str(len(hints)) if required == len(hints) else f"{required} to {len(hints)}"
    _expect(required <= len(value) <= len(hints), value, where, f"an array of {between}")
    return kind(*(typed_value(hint, item, f"{where}.{name}") for (name, hint), item in zip(hints, value, strict=False)))


def _json_type(value: JsonValue) -> str | None:
    names = {"str": "string", "list": "array", "tuple": "array", "dict": "object"}
    return names.get(type(value).__name__)


def _simple(kind: Any, value: JsonValue, where: str) -> JsonValue:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float:
        _expect(number, value, where, "a number")
        return float(value)
    if kind is int:
        _expect(number and value == int(value), value, where, "an integer")
        return int(value)
    expected = type(None) if kind is None else kind
    names = {str: "a text", bool: "true or false", type(None): "null"}
    _expect(
        isinstance(value, expected), value, where, names.get(expected, getattr(expected, "__name__", repr(expected)))
    )
    return value


def _expect(holds: bool, value: JsonValue, where: str, wanted: str) -> None:
    if not holds:
        raise RequestError(f"{where} must be {wanted}, not {value!r:.80}")
