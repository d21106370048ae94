"""Checks JSON values against JSON schemas of every draft, with the `jsonschema` package.

Patterns are ECMA 262's, whatever Python's `re` knows of them. Formats are those of formats.py, and `regex`.
Source: https://json-schema.org/draft/2020-12/json-schema-validation.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from jsonschema import FormatChecker, ValidationError, validators
from jsonschema.exceptions import _WrappedReferencingError
from jsonschema.protocols import Validator
from referencing.jsonschema import EMPTY_REGISTRY

from ..errors import RequestError
from ..json_types import JsonMapping, JsonValue
from .drafts import as_json, draft_of, shown
from .formats import PATTERNS
from .patterns import compiled

Errors = Iterator[ValidationError]


def check_json(schema: JsonValue, value: JsonValue, where: str = "the answer") -> None:
    """Check a JSON value; raises RequestError naming the first place that doesn't fit, and why."""
    try:
        error = next(validator_of(schema).iter_errors(value), None)
    except RecursionError:
        raise RequestError(f"{where} or its schema goes on without end, or too deep") from None
    except _WrappedReferencingError as error:
        raise RequestError(f"the schema refers to {error.ref!r:.80}, which it doesn't have") from None
    if error is not None:
        raise RequestError(fault(error, where))


def validator_of(schema: JsonValue) -> Validator:
    """Return what checks values against a schema; raises RequestError for one that isn't valid."""
    return _validator_of(as_json(schema))


@lru_cache(maxsize=256)
def _validator_of(text: str) -> Validator:
    schema = json.loads(text)
    draft: Any = draft_of(schema)
    return _extended(draft)(schema, registry=EMPTY_REGISTRY, format_checker=_formats())


def fault(error: ValidationError, where: str) -> str:
    """Return in one line what is wrong with a value, and where."""
    place = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.relative_path)
    if error.validator in ("anyOf", "oneOf") and error.context:
        first: dict[Any, str] = {}
        for inner in error.context:
            first.setdefault(inner.schema_path[0], fault(inner, place))
        return "; or ".join(dict.fromkeys(first.values()))
    words = _WORDS.get(str(error.validator))
    return f"{place} {words(error) if words else f'must fit {error.validator}: {shown(error.validator_value)}'}"


def _unknown(error: ValidationError) -> str:
    accepted = error.schema.get("properties", {})
    unknown = [name for name in error.instance if name not in accepted]
    return f"has the unknown {', '.join(map(repr, unknown))[:80]}; accepted are {', '.join(accepted) or 'none'}"


def _missing(error: ValidationError) -> str:
    return f"lacks {', '.join(name for name in error.validator_value if name not in error.instance)}"


def _bound(words: str, exclusive: tuple[str, str] = ("", "")) -> Callable[[ValidationError], str]:
    """`exclusive`: the keyword that makes the bound exclusive in draft 4 where it is true, and the words then."""
    keyword, otherwise = exclusive

    def said(error: ValidationError) -> str:
        chosen = otherwise if isinstance(error.schema, dict) and error.schema.get(keyword) is True else words
        return f"must be {chosen} {error.validator_value}, not {shown(error.instance)}"

    return said


def _size(words: str, unit: str) -> Callable[[ValidationError], str]:
    return lambda error: f"must have {words} {error.validator_value} {unit}, not {len(error.instance)}"


_WORDS: dict[str, Callable[[ValidationError], str]] = {
    "type": lambda error: (
        "must be of type "
        + " or ".join([error.validator_value] if isinstance(error.validator_value, str) else error.validator_value)
        + f", not {shown(error.instance)}"
    ),
    "enum": lambda error: f"must be one of {', '.join(map(shown, error.validator_value))}, not {shown(error.instance)}",
    "const": lambda error: f"must be {shown(error.validator_value)}, not {shown(error.instance)}",
    "required": _missing,
    "additionalProperties": _unknown,
    "unevaluatedProperties": _unknown,
    "minimum": _bound("at least", ("exclusiveMinimum", "over")),
    "maximum": _bound("at most", ("exclusiveMaximum", "under")),
    "exclusiveMinimum": _bound("over"),
    "exclusiveMaximum": _bound("under"),
    "multipleOf": _bound("a multiple of"),
    "pattern": _bound("text that matches"),
    "format": _bound("of the format"),
    "minLength": _size("at least", "characters"),
    "maxLength": _size("at most", "characters"),
    "minItems": _size("at least", "items"),
    "maxItems": _size("at most", "items"),
    "minProperties": _size("at least", "properties"),
    "maxProperties": _size("at most", "properties"),
    "uniqueItems": lambda _: "has an item twice",
    "contains": lambda _: "has no item, or not as many as it must, of those that it must contain",
    "not": lambda error: f"is {shown(error.instance)}, which is excluded",
    "oneOf": lambda error: f"must fit exactly one of {len(error.validator_value)} schemas: {shown(error.instance)}",
    "dependentRequired": lambda error: f"lacks what other values require: {error.message}",
    "dependencies": lambda error: f"lacks what other values require: {error.message}",
    "None": lambda _: "isn't accepted",
}


# Keywords that the package judges otherwise than JSON Schema does: patterns by Python's `re`, multiples by floats.


def _pattern(_: Validator, pattern: str, instance: JsonValue, _schema: JsonValue) -> Errors:
    if isinstance(instance, str) and not compiled(pattern).search(instance):
        yield ValidationError(f"{instance!r} doesn't match {pattern!r}")


def _pattern_properties(validator: Any, patterns: JsonMapping, instance: JsonValue, _: JsonValue) -> Errors:
    if isinstance(instance, dict):
        for pattern, inner in patterns.items():
            for name, item in instance.items():
                if compiled(pattern).search(name):
                    yield from validator.descend(item, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, inner: JsonValue, instance: JsonValue, schema: JsonMapping) -> Errors:
    if not isinstance(instance, dict):
        return
    listed, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    others = [
        name
        for name in instance
        if name not in listed and not any(compiled(pattern).search(name) for pattern in patterns)
    ]
    if inner is False and others:
        yield ValidationError(f"{others} are unknown")
    elif isinstance(inner, dict):
        for name in others:
            yield from validator.descend(instance[name], inner, path=name)


def _dependencies(validator: Any, dependencies: JsonValue, instance: JsonValue, _: JsonValue) -> Errors:
    """The keyword of drafts 3 to 7, which schemas that name no draft use as well."""
    if not isinstance(instance, dict) or not isinstance(dependencies, Mapping):
        return
    for name, needed in dependencies.items():
        if name not in instance:
            continue
        if isinstance(needed, list):
            lacking = [other for other in needed if other not in instance]
            if lacking:
                yield ValidationError(f"{name} requires {', '.join(lacking)}")
        else:
            yield from validator.descend(instance, needed, schema_path=name)


def _multiple_of(_: Validator, of: float, instance: JsonValue, _schema: JsonValue) -> Errors:
    if isinstance(instance, bool) or not isinstance(instance, int | float) or not math.isfinite(instance):
        return
    if (Fraction(str(instance)) / Fraction(str(of))).denominator != 1:
        yield ValidationError(f"{instance} isn't a multiple of {of}")


@lru_cache
def _extended(draft: Any) -> type[Validator]:
    return validators.extend(
        draft,
        {
            "pattern": _pattern,
            "patternProperties": _pattern_properties,
            "additionalProperties": _additional_properties,
            "multipleOf": _multiple_of,
            "dependencies": _dependencies,
        },
    )


@lru_cache
def _formats() -> FormatChecker:
    """Return a checker of the formats that are patterns, and of patterns themselves."""
    checker = FormatChecker(formats=())
    checker.checkers = {}
    for name, pattern in PATTERNS.items():
        checker.checks(name)(_matcher(pattern))
    checker.checks("regex", raises=RequestError)(lambda value: not isinstance(value, str) or bool(compiled(value)))
    return checker


def _matcher(pattern: str) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or compiled(pattern).search(value) is not None
